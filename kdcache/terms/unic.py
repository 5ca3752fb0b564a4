"""UNIC and DUNE (arXiv:2408.05088, arXiv:2503.14405): several teachers, some dropped."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, final, get_args

import torch
from torch import Tensor, nn

from kdcache.cache.column import Column
from kdcache.losses import cosine_smooth_l1, drop_teachers
from kdcache.stream.targets import Payload
from kdcache.terms.base import Inputs, TokenShape
from kdcache.terms.pairs import Pair, TokenTerm
from kdcache.terms.transforms import TransformName

Head = Literal["linear", "mlp"]
# Hidden channels relative to the student's, as in the last block of the published code.
_MLP_RATIO = 4


@final
@dataclass(frozen=True, kw_only=True)
class Unic(TokenTerm):
    """Half cosine, half smooth L1 distance to several teachers, dropped image by image.

    A teacher is a group of the cache. Its loss of an image is the mean over its taps, as a rule
    ``blocks.-1/patch`` and ``blocks.-1/prefix`` or ``head/embedding``. For each image the teacher
    of the highest loss is kept and every other one dropped with probability `drop`; an image's loss
    is the mean over the teachers kept. The draws come from torch's random state: with two or more
    teachers, accumulation draws others for the same images unless drop=0.

    The published code sums heads on all blocks of the student; here each tap has one head, on one
    block.

    Args:
        weight, teacher, student_block, resize: As in `TokenTerm`.
        transform: As in `TokenTerm`; the papers standardize.
        head: What is trained beside the student for each tap, ``linear``: LayerNorm and a
            projection to the teacher's width; ``mlp``: LayerNorm and two projections with a GELU
            between them.
        drop: Probability of dropping a teacher for an image, 0 to 1.
    """

    name: Literal["unic"] = "unic"
    transform: TransformName = "standardize"
    head: Head = "linear"
    drop: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head not in get_args(Head):
            raise ValueError(f"head must be one of {', '.join(get_args(Head))}, got {self.head!r}")
        if not 0 <= self.drop <= 1:
            raise ValueError(f"drop must be between 0 and 1, got {self.drop}")

    def make_adapter(self, student: TokenShape, column: Column) -> nn.Module:
        """See TokenTerm."""
        own, other = student.num_channels, column.shape[-1]
        if self.head == "linear":
            return nn.Sequential(nn.LayerNorm(own), nn.Linear(own, other))
        hidden = _MLP_RATIO * own
        return nn.Sequential(nn.LayerNorm(own), nn.Linear(own, hidden), nn.GELU(), nn.Linear(hidden, other))

    def compare(self, student: Tensor, teacher: Payload, adapter: nn.Module | None) -> Tensor:
        """See TokenTerm."""
        return _of_images(student, teacher, adapter).mean()

    def __call__(self, inputs: Inputs, modules: nn.Module | None) -> Tensor:
        """See Term."""
        by_teacher: dict[str, list[Tensor]] = {}
        pairs = cast("Sequence[Pair]", modules)
        for tokens, targets, pair in zip(inputs.student, inputs.teacher, pairs, strict=True):
            losses = _of_images(pair.tokens(tokens), pair.targets(targets), pair.adapter)
            by_teacher.setdefault(targets.column.group, []).append(losses)
        each = [torch.stack(losses).mean(0) for losses in by_teacher.values()]
        return drop_teachers(torch.stack(each, dim=1), probability=self.drop)


def _of_images(student: Tensor, teacher: Payload, adapter: nn.Module | None) -> Tensor:
    """The distance of each image's tokens, (B,)."""
    assert adapter is not None, "make_adapter gives one"
    return cosine_smooth_l1(adapter(student), teacher.decode())
