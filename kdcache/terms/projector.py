"""ProjectorKD (arXiv:1412.6550, FitNets): projected tokens, batch-normalised on both sides."""

from dataclasses import dataclass
from typing import Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcache.cache.column import Column
from kdcache.stream.targets import Payload
from kdcache.terms.base import TokenShape
from kdcache.terms.pairs import TokenTerm


@final
class NormalizedProjection(nn.Module):
    """A projection of the student's tokens, and batch normalisation of both sides.

    The statistics are the batch's own.

    Args:
        student_channels: C_s.
        teacher_channels: C_t.
        teacher_affine: Whether the teacher's side has a trained scale and offset too.
    """

    def __init__(self, student_channels: int, teacher_channels: int, *, teacher_affine: bool) -> None:
        super().__init__()
        self.projection = nn.Linear(student_channels, teacher_channels)
        # No running statistics: nobody evaluates through this.
        self.student_norm = nn.BatchNorm1d(teacher_channels, track_running_stats=False)
        self.teacher_norm = nn.BatchNorm1d(teacher_channels, affine=teacher_affine, track_running_stats=False)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Mean squared error of both sides normalised, the student's projected first; in fp32.

        Args:
            student: (B, N, C_s).
            teacher: (B, N, C_t).
        """
        projected = self.projection(student).flatten(0, 1)
        projected = projected.to(torch.promote_types(projected.dtype, torch.float32))
        targets = teacher.flatten(0, 1).to(projected.dtype)
        return F.mse_loss(self.student_norm(projected), self.teacher_norm(targets))


@final
@dataclass(frozen=True, kw_only=True)
class Projector(TokenTerm):
    """Mean squared error between batch-normalised tokens, the student's projected first.

    The statistics are those of the batch a rank has in memory, over images and tokens together:
    accumulation and more ranks change them, and with them the gradient. All other terms are means
    over the batch and do not change.

    With both scales trained, shrinking both lowers the loss whatever the tokens are;
    teacher_affine=false fixes the teacher's side to mean 0 and variance 1, and leaves the tokens no
    such way out.

    Args:
        weight, teacher, student_block, resize, transform: As in `TokenTerm`.
        released: Keep projection, scales and offsets at their initial values, as the published code
            did (it made them after the optimizer): a control, not a method.
        teacher_affine: Train a scale and an offset of each channel on the teacher's side as well.
    """

    name: Literal["projector"] = "projector"
    released: bool = False
    teacher_affine: bool = True

    def make_adapter(self, student: TokenShape, column: Column) -> nn.Module:
        """See TokenTerm."""
        adapter = NormalizedProjection(student.num_channels, column.shape[-1], teacher_affine=self.teacher_affine)
        return adapter.requires_grad_(not self.released)

    def compare(self, student: Tensor, teacher: Payload, adapter: nn.Module | None) -> Tensor:
        """See TokenTerm."""
        assert adapter is not None, "make_adapter gives one"
        return adapter(student, teacher.decode())
