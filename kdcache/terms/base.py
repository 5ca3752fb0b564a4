"""What a term of a loss is: what it reads of teacher and student, and the scalar it makes of that."""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor, nn

from kdcache.cache.column import Column
from kdcache.cache.facts import ColumnKind
from kdcache.cache.statistics import TokenStatistics
from kdcache.models.network import Network
from kdcache.models.taps import Tap, parse_tap
from kdcache.ops import LiftedTokens
from kdcache.stream.targets import PackedTargets

_REFERENCE = re.compile(r"(?:(?P<group>[^:/]+):)?(?P<tap>[^:]*/[^:]*)?(?::(?P<codec>[^:/]+))?")


@dataclass(frozen=True)
class TeacherNeed:
    """A column that a term reads.

    Args:
        kind: What it must hold.
        tap: As in `parse_tap`, its block perhaps counted from the end; None for the only one there is.
        group: The group that holds it; None for any.
        codec: Its codec; None for any.
        blocks: Several columns in place of one: those at these blocks, counted from 0, as far as the
            cache holds them, and at every block for (). They arrive in the order of their blocks,
            and `tap` is None.
    """

    kind: ColumnKind
    tap: str | None = None
    group: str | None = None
    codec: str | None = None
    blocks: tuple[int, ...] | None = None


def teacher_need(text: str, kind: ColumnKind) -> TeacherNeed:
    """Read ``[GROUP:]TAP[:CODEC]``, such as ``cait-s24-224:blocks.-1/patch:int8``; ``GROUP:`` alone is any tap of it.

    Args:
        text: What the user wrote; empty for the only column of this kind.
        kind: What the column holds where the text names no tap.

    Raises: ValueError for another form, TapError for a tap of another form.
    """
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise ValueError(
            f"teacher {text!r}: wanted [GROUP:]TAP[:CODEC], such as cait-s24-224:blocks.-1/patch:int8, or GROUP:"
        )
    tap = match["tap"]
    found: ColumnKind = parse_tap(tap).kind if tap else kind  # pyright: ignore[reportAssignmentType]
    return TeacherNeed(found, tap, match["group"], match["codec"])


@dataclass(frozen=True)
class Needs:
    """What a term reads of a batch. It is given what it names here, in the same order.

    Args:
        teacher: Columns.
        student: Taps of the student. A patch or prefix tap without a block is the student's own choice: the tokens
            that its change makes, or those of its last block.
        logits: Whether the student's logits are read; where no term does, its head is not trained.
        labels: Whether every image must have a label.
        network: Whether the term runs parts of the student itself, besides the step's one forward.
        unformed: Whether the term takes the tokens of the student's change as a product that is not carried out.
    """

    teacher: Sequence[TeacherNeed] = ()
    student: Sequence[Tap] = ()
    logits: bool = False
    labels: bool = False
    network: bool = False
    unformed: bool = False


class TokenShape(NamedTuple):
    """Shape of the tokens at a tap of the student.

    Attributes:
        num_tokens: N.
        num_channels: C.
        grid: Rows and columns of patch tokens, else None.
    """

    num_tokens: int
    num_channels: int
    grid: tuple[int, int] | None


@dataclass(frozen=True)
class Site:
    """Where a term is used: shapes and statistics of all that it named, before the first step.

    Args:
        student: Shapes at the student's taps.
        teacher: The columns.
        statistics: Gives the statistics of a column over the whole cache.
        network: The student, for a term that runs parts of it.
        image_size: S of the student's images.
        teacher_depth: Gives how many blocks the teacher of a column has; None where that is unknown.
    """

    student: Sequence[TokenShape]
    teacher: Sequence[Column]
    statistics: Callable[[Column], TokenStatistics]
    network: Network | None = None
    image_size: int = 0
    teacher_depth: Callable[[Column], int | None] = lambda column: None


@dataclass(frozen=True)
class Inputs:
    """A batch as a term sees it.

    Args:
        logits: (B, K) of the student.
        labels: (B,) int64.
        student: (B, N, C) tokens of the student, for each tap.
        teacher: The teachers' outputs, packed, for each column.
        images: (B, 3, S, S), normalised.
        network: The student, for a term that runs parts of it; the weights are those that the step trains.
        unformed: By number of the tap, tokens that were not formed, for a term that takes them; those in `student` are
            then what the product is taken of.
    """

    logits: Tensor
    labels: Tensor
    student: Sequence[Tensor]
    teacher: Sequence[PackedTargets]
    images: Tensor
    network: Network | None = None
    unformed: Mapping[int, LiftedTokens] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Term(ABC):
    """One summand of a loss: frozen data, that of a run's configuration.

    Args:
        name: The word users type.
        weight: Its factor in the sum, at least 0; a term of weight 0 is left out of a method.
    """

    name: str
    weight: float

    @abstractmethod
    def needs(self) -> Needs:
        """What it reads. Raises: ValueError for settings that do not go together."""

    def modules(self, site: Site) -> nn.Module | None:
        """What is trained or kept beside the student for this term, and dropped afterwards.

        Raises: ValueError, GridMismatchError or TapError where the term cannot be used there.
        """
        return None

    @abstractmethod
    def __call__(self, inputs: Inputs, modules: nn.Module | None) -> Tensor:
        """The unweighted loss, a scalar in fp32, mean over the batch.

        Args:
            inputs: What `needs` named.
            modules: What `modules` gave.
        """


def check_weight(weight: float) -> None:
    """Refuse weights that are negative or not finite. Raises: ValueError."""
    if not 0 <= weight < math.inf:
        raise ValueError(f"weight must be >= 0, got {weight}")
