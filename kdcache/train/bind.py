"""From what terms need to what there is: columns of the cache, taps of the student."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from kdcache.cache.cache import Cache
from kdcache.cache.cache_statistics import CacheStatistics
from kdcache.cache.column import Column
from kdcache.errors import GridMismatchError, ModelError, UsageError
from kdcache.methods.base import Method
from kdcache.models.network import Network
from kdcache.models.taps import check_logits, num_blocks, parse_tap, token_grid
from kdcache.students.student import Student, tap_grid
from kdcache.terms.base import Site, TeacherNeed, Term, TokenShape


@dataclass(frozen=True)
class BoundTerm:
    """A term with all that it reads.

    Args:
        term: The term.
        label: Its name in the metrics.
        columns: One for each teacher need.
        tap_numbers: Where in the student's outputs each of its taps is.
    """

    term: Term
    label: str
    columns: tuple[Column, ...]
    tap_numbers: tuple[int, ...]

    def network_of(self, student: Student) -> Network | None:
        """The student, where the term runs parts of it; its taps are set."""
        if not self.term.needs().network:
            return None

        def tokens(images: Tensor) -> list[Tensor]:
            read = student.outputs(images).tokens
            return [read[number] for number in self.tap_numbers]

        return Network(student.network, tokens)


def columns_of(method: Method, cache: Cache, codec: str | None) -> list[tuple[Column, ...]]:
    """The columns of each term.

    Args:
        method: The method.
        cache: The cache.
        codec: Decides where several columns fit a need that names none.

    Raises: TapError for a need that no column or several fit, UsageError for a codec that no column in use has.
    """
    found = [
        tuple(column for need in term.needs().teacher for column in _columns(need, cache, codec))
        for term in method.active
    ]
    used = [column for columns in found for column in columns]
    if codec is not None and all(column.codec != codec for column in used):
        names = ", ".join(column.label for column in used) or "no column"
        raise UsageError(f"codec {codec} would be ignored: method {method.name} reads {names}")
    return found


def bind(
    method: Method, columns: Sequence[tuple[Column, ...]], student: Student, cache: Cache, image_size: int
) -> tuple[list[BoundTerm], list[nn.Module | None]]:
    """Set the student's taps and make each term's modules.

    Args:
        method: The method.
        columns: What `columns_of` gave.
        student: Its taps are set.
        cache: Gives the statistics of columns.
        image_size: S of the student's images.

    Returns: the terms, and the modules of each, made in their order (they draw from torch's random state).
    Raises: TapError, GridMismatchError; ValueError where a term cannot be used here.
    """
    wanted = [tuple(term.needs().student) for term in method.active]
    student.set_taps([tap for taps in wanted for tap in taps])
    taps = list(dict.fromkeys(student.taps))
    numbers = [taps.index(tap) for tap in student.taps]
    student.set_taps(taps)
    shapes = _shapes(student, image_size)
    statistics = CacheStatistics(cache)

    def teacher_depth(column: Column) -> int | None:
        teacher = cache.groups[column.group].manifest.fingerprint.teacher
        return None if teacher is None else teacher.num_blocks

    bound: list[BoundTerm] = []
    modules: list[nn.Module | None] = []
    for term, label, own, needed in zip(method.active, method.labels, columns, wanted, strict=True):
        tap_numbers, numbers = tuple(numbers[: len(needed)]), numbers[len(needed) :]
        bound.append(BoundTerm(term, label, own, tap_numbers))
        network = bound[-1].network_of(student)
        site = Site([shapes[number] for number in tap_numbers], own, statistics.of, network, image_size, teacher_depth)
        try:
            modules.append(term.modules(site))
        except GridMismatchError as error:
            raise _with_blocks(error, student, image_size) from None
    return bound, modules


def _with_blocks(error: GridMismatchError, student: Student, image_size: int) -> GridMismatchError:
    """The error with the student's blocks whose grid is the one that was wanted, where there are any."""
    count, wanted = num_blocks(student.network), error.details.get("grid")
    fitting = [
        block for block in range(-count, 0) if wanted and token_grid(student.network, block, image_size) == wanted
    ]
    if not fitting:
        return error
    message = f"{error.args[0]}; the student's blocks with the teacher's grid are {', '.join(map(str, fitting))}"
    return GridMismatchError(message, remedy=error.remedy, grid=wanted)


def _columns(need: TeacherNeed, cache: Cache, codec: str | None) -> list[Column]:
    if need.blocks is None:
        return [_column(need, cache, codec)]
    fitting = cache.fitting_columns(kind=need.kind, codec=need.codec, group=need.group)
    groups = sorted({column.group for column in fitting})
    if len(groups) > 1:  # blocks of different teachers are no one's layers
        raise cache.ambiguous(f"blocks of a teacher ({need.kind})", [f"{group}:" for group in groups])
    blocks = sorted({parse_tap(column.tap).block or 0 for column in fitting})
    wanted = [block for block in blocks if not need.blocks or block in need.blocks]
    return [_column(replace(need, tap=f"blocks.{block}/{need.kind}", blocks=None), cache, codec) for block in wanted]


def _column(need: TeacherNeed, cache: Cache, codec: str | None) -> Column:
    wanted = need.codec
    if wanted is None:
        fitting = cache.fitting_columns(kind=need.kind, tap=need.tap, group=need.group)
        if len(fitting) > 1 and any(column.codec == codec for column in fitting):
            wanted = codec
    return cache.find_column(kind=need.kind, tap=need.tap, codec=wanted, group=need.group)


def _shapes(student: Student, image_size: int) -> list[TokenShape]:
    """Shapes at the student's taps, from a forward of one black image.

    Raises: ModelError for a student that does not take images of this size, TapError for one that gives other logits
        when its taps are read.
    """
    was_training = student.training
    black = torch.zeros(1, 3, image_size, image_size)
    with torch.inference_mode():
        try:
            outputs = student.eval().outputs(black)
        except (RuntimeError, AssertionError) as error:
            raise ModelError(
                f"the student does not take images of {image_size} x {image_size} pixels: {error}"
            ) from None
        if student.taps:
            check_logits(student, black, outputs.logits)
    student.train(was_training)
    return [
        TokenShape(values.shape[1], values.shape[2], tap_grid(student, tap, image_size))
        for tap, values in zip(student.taps, outputs.tokens, strict=True)
    ]
