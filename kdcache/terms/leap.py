"""LEAP (arXiv:2606.19483): one block of the teacher after another, each until the student resembles it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast, final, get_args

import torch
from torch import Tensor, nn

from kdcache.cache.column import Column
from kdcache.distributed.process_group import mean_over_group
from kdcache.errors import Remedy, TapError
from kdcache.losses import feature_loss, linear_cka
from kdcache.stream.targets import Payload
from kdcache.terms.base import Inputs, Needs, Site, TokenShape, teacher_need
from kdcache.terms.pairs import Pair, TokenTerm
from kdcache.terms.transforms import TransformName

Start = Literal["closest", "first"]


@final
class Curriculum(nn.Module):
    """Which target is in use, and the one projection to all of them.

    Its state is three buffers, so that a checkpoint holds it and DDP sends rank 0's to all. It
    changes in training only.

    Args:
        projection: From the student's width to the teacher's; kept from target to target.
        pairs: Of each target.

    Attributes:
        target: Number of the target among the term's columns, -1 before the first batch.
        similarity: Exponential moving average of the CKA with it, from 0.
        forwards: How many forwards the target has been in use.
    """

    target: Tensor
    similarity: Tensor
    forwards: Tensor

    def __init__(self, projection: nn.Module, pairs: Sequence[Pair]) -> None:
        super().__init__()
        self.projection, self.pairs = projection, nn.ModuleList(pairs)
        self.register_buffer("target", torch.tensor(-1))
        self.register_buffer("similarity", torch.tensor(0.0))
        self.register_buffer("forwards", torch.tensor(0))

    @torch.no_grad()
    def move_to(self, target: Tensor | int) -> None:
        """Begin with a target."""
        self.target.fill_(target)
        self.similarity.zero_()
        self.forwards.zero_()

    @torch.no_grad()
    def note(self, similarity: Tensor, *, alpha: float, threshold: float, max_steps: int) -> None:
        """Average the similarity, and take the next target where it is due; all of it stays on the device.

        Args:
            similarity: CKA with the target, the same on all ranks.
            alpha, threshold, max_steps: As in `Leap`.
        """
        self.similarity.lerp_(similarity.to(self.similarity.dtype), alpha)
        self.forwards.add_(1)
        due = ((self.similarity >= threshold) | (self.forwards >= max_steps)) & (self.target + 1 < len(self.pairs))
        self.target.add_(due)
        self.similarity.masked_fill_(due, 0)
        self.forwards.masked_fill_(due, 0)


@final
@dataclass(frozen=True, kw_only=True)
class Leap(TokenTerm):
    """Mean squared error between the student's projected patch tokens and those of one teacher block.

    Targets are the teacher's blocks, the first first. The next one follows when the moving average
    of the linear CKA between projected and target tokens reaches `threshold`, or after `max_steps`;
    the last stays. CKA is that of the tokens a rank has in memory, averaged over the ranks, so that
    all ranks move in the same step; accumulation and more ranks change it a little, and with it the
    step at which the target moves. The loss rises there: it has another target.

    The published curriculum saves the teacher's later blocks while they are not needed. With a
    cache they are there: every step reads all columns named, whatever the target. Fewer blocks
    (``teacher=blocks.5/patch+blocks.11/patch``) make shorter reads and larger steps.

    The published targets are tokens after the teacher's final norm. A cache holds them before it:
    transform=layer-norm makes of them what that norm does but for its scale and offset of each
    channel. Left out are the published code's error of the class token (weight .05 in its commands)
    and its restarts of the learning rate.

    Args:
        weight, resize: As in `TokenTerm`.
        teacher: Patch taps, in the order in which they become targets; ``GROUP:`` for every block
            that the cache holds of it, and empty for that of the only group.
        student_block: One block, negative from the end; empty for the student's last tokens.
        transform: As in `TokenTerm`.
        threshold: CKA, 0 to 1, at which the next target follows.
        alpha: Weight of a batch in the moving average, above 0, up to 1; it begins at 0 with every
            target. The published commands set 1, no average.
        max_steps: After how many steps the next target follows anyway; a term does not know how
            many steps an epoch has. The published limit is 5 epochs: 3125 steps are those of
            ImageNet at batch size 2048. With ``accumulate=n`` a step counts n times.
        start: ``closest``: with the block whose CKA with the fresh student is highest in the first
            batch, as the published code does; ``first``: with the first.
    """

    name: Literal["leap"] = "leap"
    weight: float = 1.0
    transform: TransformName = "layer-norm"
    threshold: float = 0.8
    alpha: float = 0.05
    max_steps: int = 3125
    start: Start = "closest"

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(need.kind != "patch" for need in self.needs().teacher):
            raise ValueError(f"the term leap compares patch tokens, got teacher={'+'.join(self.teacher)}")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be between 0 and 1, got {self.threshold}")
        if not 0 < self.alpha <= 1:
            raise ValueError(f"alpha must be above 0, up to 1, got {self.alpha}")
        if self.max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, got {self.max_steps}")
        if self.start not in get_args(Start):
            raise ValueError(f"start must be one of {', '.join(get_args(Start))}, got {self.start!r}")

    def needs(self) -> Needs:
        """See Term."""
        if len(self.student_block) > 1:
            raise ValueError(f"the term leap trains one block of the student, got student_block={self.student_block}")
        named = [teacher_need(text, "patch") for text in self.teacher or ("",)]
        if len(named) == 1 and named[0].tap is None:
            named = [replace(named[0], blocks=())]
        return Needs(teacher=named, student=super().needs().student[:1])

    def make_adapter(self, student: TokenShape, column: Column) -> None:
        """See TokenTerm. All pairs share one projection."""

    def compare(self, student: Tensor, teacher: Payload, adapter: nn.Module | None) -> Tensor:
        """See TokenTerm."""
        return feature_loss(student, teacher.decode(), kind="mse")

    def modules(self, site: Site) -> nn.Module:
        """See Term. Raises: TapError for a cache without patch tokens."""
        (student,) = site.student
        shapes = {(*column.shape, *column.grid) for column in site.teacher}
        if len(shapes) > 1:
            raise ValueError(
                f"the term leap has one projection, and its teacher's tokens differ: "
                f"{', '.join(column.label for column in site.teacher)}; choose blocks of one grid and width"
            )
        if not site.teacher:
            raise TapError(
                "the term leap needs patch tokens of a teacher's blocks; the cache holds none",
                remedy=Remedy.ADD_COLUMNS,
                wanted=["blocks.N/patch"],
                held=[],
            )
        pairs = [self._pair(student, column, site) for column in site.teacher]
        return Curriculum(nn.Linear(student.num_channels, site.teacher[0].shape[-1]), pairs)

    def __call__(self, inputs: Inputs, modules: nn.Module | None) -> Tensor:
        """See Term."""
        curriculum = cast("Curriculum", modules)
        pairs = cast("Sequence[Pair]", curriculum.pairs)
        projected = curriculum.projection(pairs[0].tokens(inputs.student[0]))
        training = curriculum.training and torch.is_grad_enabled()
        number = self._target(curriculum, projected.detach(), inputs) if training else max(int(curriculum.target), 0)
        targets = pairs[number].targets(inputs.teacher[number])
        if training:
            found = mean_over_group(linear_cka(projected.detach(), targets.decode()))
            curriculum.note(found, alpha=self.alpha, threshold=self.threshold, max_steps=self.max_steps)
        return self.compare(projected, targets, None)

    def _target(self, curriculum: Curriculum, projected: Tensor, inputs: Inputs) -> int:
        """The target of this batch; the first batch chooses one."""
        # The one value that the host waits for in a step: which records are compared depends on it.
        number = int(curriculum.target)
        if number >= 0:
            return number
        if self.start == "first":
            curriculum.move_to(0)
        else:
            pairs = cast("Sequence[Pair]", curriculum.pairs)
            targets = [pair.targets(each).decode() for pair, each in zip(pairs, inputs.teacher, strict=True)]
            found = torch.stack([linear_cka(projected, each) for each in targets])
            curriculum.move_to(mean_over_group(found).argmax())
        return int(curriculum.target)
