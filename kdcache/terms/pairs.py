"""What terms on tokens have in common: pairs of a student's tap and a teacher's, transforms, grids that differ."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from kdcache.cache.column import Column
from kdcache.errors import GridMismatchError, Remedy
from kdcache.models.taps import Tap
from kdcache.ops import LiftedTokens
from kdcache.stream.targets import PackedTargets, Payload
from kdcache.terms.base import Inputs, Needs, Site, TeacherNeed, Term, TokenShape, check_weight, teacher_need
from kdcache.terms.transforms import TransformName, make_transform

Resize = Literal["refuse", "student", "teacher"]
MeanOver = Literal["pairs", "tokens"]
_TOKEN_AXES = 2  # (N, C); an embedding has (C,)


Grid = tuple[int, int]


class Pair(nn.Module):
    """What one pair of taps keeps: the term's own adapter, the transform of the targets, and what is resized.

    Args:
        adapter: Trained beside the student, or None.
        transform: Of the decoded targets, or None.
        student_grids, teacher_grids: The grid to resize from and to; None where that side stays as it is.
    """

    def __init__(
        self,
        adapter: nn.Module | None,
        transform: nn.Module | None,
        student_grids: tuple[Grid, Grid] | None,
        teacher_grids: tuple[Grid, Grid] | None,
    ) -> None:
        super().__init__()
        self.adapter, self.transform = adapter, transform
        self.student_grids, self.teacher_grids = student_grids, teacher_grids

    def tokens(self, student: Tensor) -> Tensor:
        """The student's tokens (B, N, C_s) on the grid of the comparison."""
        return student if self.student_grids is None else resize_tokens(student, *self.student_grids)

    def targets(self, targets: PackedTargets) -> Payload:
        """The teacher's tokens (B, N, C_t): as stored, or decoded, transformed and resized where that is asked for."""
        if self.transform is None and self.teacher_grids is None and len(targets.column.shape) == _TOKEN_AXES:
            return targets.payload()
        values = targets.decode()
        if len(targets.column.shape) != _TOKEN_AXES:  # an embedding is one token
            values = values.unsqueeze(1)
        if self.transform is not None:
            values = self.transform(values)
        if self.teacher_grids is not None:
            values = resize_tokens(values, *self.teacher_grids)
        return Payload(values, None, None)


@dataclass(frozen=True, kw_only=True)
class TokenTerm(Term):
    """A term that compares tokens of the student with tokens of a teacher, mean over one or several pairs of taps.

    Args:
        weight: Its factor.
        teacher: ``[GROUP:]TAP[:CODEC]`` of each pair, such as ``wide:blocks.-1/patch``; empty for the only patch tokens
            of the cache. Prefix tokens and embeddings are compared with the student's own.
        student_block: The student's block of each pair, negative from the end; empty for the tokens that the student's
            change makes, or its last block's. One of either goes with all of the other.
        resize: What is resized, bilinearly, where the two grids differ: student, teacher, or refuse.
        transform: Of the targets, from the statistics in the cache: none, mean (the column's mean is subtracted),
            standardize (each channel to mean 0 and variance 1) or phi-s (arXiv:2410.01680: rotated, then one scale);
            or layer-norm (each token to mean 0 and variance 1).
        mean_over: Of several pairs: ``pairs`` weighs them alike, ``tokens`` by how many tokens are compared, so
            that the prefix and the patch tokens of a block count as one set.
    """

    weight: float = 0.2
    teacher: tuple[str, ...] = ()
    student_block: tuple[int, ...] = ()
    resize: Resize = "refuse"
    transform: TransformName = "none"
    mean_over: MeanOver = "pairs"

    def __post_init__(self) -> None:
        check_weight(self.weight)
        for field, kind in (("resize", Resize), ("transform", TransformName), ("mean_over", MeanOver)):
            if getattr(self, field) not in get_args(kind):
                raise ValueError(f"{field} must be one of {', '.join(get_args(kind))}, got {getattr(self, field)!r}")
        for need in self.needs().teacher:
            if need.kind not in ("patch", "prefix", "embedding"):
                raise ValueError(f"the term {self.name} compares tokens, got teacher={need.tap}")

    def needs(self) -> Needs:
        """See Term."""
        teacher = [teacher_need(text, "patch") for text in self.teacher or ("",)]
        blocks: Sequence[int | None] = self.student_block or (None,)
        count = max(len(teacher), len(blocks))
        if len(teacher) not in (1, count) or len(blocks) not in (1, count):
            raise ValueError(
                f"{len(teacher)} teacher taps and {len(blocks)} student blocks do not make pairs; give as many of one "
                "as of the other, or one of either"
            )
        teacher = teacher * (count // len(teacher))
        blocks = list(blocks) * (count // len(blocks))
        student = [_student_tap(need, block) for need, block in zip(teacher, blocks, strict=True)]
        return Needs(teacher=teacher, student=student)

    def make_adapter(self, student: TokenShape, column: Column) -> nn.Module | None:
        """What is trained beside the student for one pair. Raises: ValueError for widths that do not fit."""
        return None

    @abstractmethod
    def compare(self, student: Tensor, teacher: Payload, adapter: nn.Module | None) -> Tensor:
        """The loss of one pair, a scalar.

        Args:
            student: (B, N, C_s).
            teacher: (B, N, C_t) targets, packed as stored where nothing had to be done to them; `Payload.decode`.
            adapter: What `make_adapter` gave.
        """

    def compare_unformed(self, student: LiftedTokens, teacher: Payload) -> Tensor:
        """As `compare`, for a term whose `needs` take the student's tokens as a product (B, N, C_t)."""
        raise NotImplementedError(f"the term {self.name} asks for tokens that are not formed, and cannot compare them")

    def modules(self, site: Site) -> nn.Module | None:
        """See Term."""
        return nn.ModuleList(
            self._pair(student, column, site) for student, column in zip(site.student, site.teacher, strict=True)
        )

    def _pair(self, student: TokenShape, column: Column, site: Site) -> Pair:
        student_grids, teacher_grids = self._grids(student, column)
        known = None if self.transform == "none" else site.statistics(column)
        transform = None if known is None else make_transform(self.transform, column.name, known)
        return Pair(self.make_adapter(student, column), transform, student_grids, teacher_grids)

    def _grids(self, student: TokenShape, column: Column) -> tuple[tuple[Grid, Grid] | None, tuple[Grid, Grid] | None]:
        """What has to be resized from which grid to which: the student's tokens, the teacher's."""
        num_tokens = column.shape[0] if len(column.shape) == _TOKEN_AXES else 1
        if student.grid is None or not column.grid:
            if student.num_tokens != num_tokens:
                raise GridMismatchError(
                    f"the student has {student.num_tokens} tokens of this kind, the teacher {num_tokens} at "
                    f"{column.label}; tokens are compared one by one",
                    remedy=Remedy.OTHER_TOKENS,
                )
            return None, None
        own, other = student.grid, (column.grid[0], column.grid[1])
        if own == other:
            return None, None
        if self.resize == "student":
            return (own, other), None
        if self.resize == "teacher":
            return None, (other, own)
        raise GridMismatchError(
            f"the student makes {own[0]} x {own[1]} patch tokens of these views, the teacher made {other[0]} x "
            f"{other[1]} at {column.label}; tokens are compared one by one",
            remedy=Remedy.MATCH_GRID,
            grid=other,
        )

    def __call__(self, inputs: Inputs, modules: nn.Module | None) -> Tensor:
        """See Term."""
        pairs = cast("Sequence[Pair]", modules)
        losses: list[Tensor] = []
        counts: list[int] = []
        for number, (own, targets, pair) in enumerate(zip(inputs.student, inputs.teacher, pairs, strict=True)):
            tokens = pair.tokens(own)
            if number in inputs.unformed:
                losses.append(self.compare_unformed(inputs.unformed[number], pair.targets(targets)))
            else:
                losses.append(self.compare(tokens, pair.targets(targets), pair.adapter))
            counts.append(tokens.shape[1] if self.mean_over == "tokens" else 1)
        weighted = [loss * count for loss, count in zip(losses, counts, strict=True)]
        return sum(weighted[1:], start=weighted[0]) / sum(counts)


def resize_tokens(tokens: Tensor, grid: Grid, wanted: Grid) -> Tensor:
    """Resize a map of tokens bilinearly, with antialiasing where it shrinks.

    Args:
        tokens: (B, N, C) in row order, N = rows x columns of `grid`.
        grid, wanted: Rows and columns.

    Returns: (B, N', C) float32.
    """
    maps = tokens.float().transpose(1, 2).unflatten(2, grid)
    return F.interpolate(maps, size=wanted, mode="bilinear", antialias=True).flatten(2).transpose(1, 2)


def _student_tap(need: TeacherNeed, block: int | None) -> Tap:
    if need.kind == "embedding":
        if block is not None:
            raise ValueError(
                f"an embedding has no block: leave out student_block for teacher={need.tap}, or give it a term "
                "of its own"
            )
        return Tap("embedding")
    return Tap("prefix" if need.kind == "prefix" else "patch", block)
