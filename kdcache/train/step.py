"""One forward of everything that is trained: student, adapter, loss terms. What DDP and torch.compile wrap."""

from torch import Tensor, nn

from kdcache.methods import Method, Targets
from kdcache.models import Student


class DistillationStep(nn.Module):
    """Student and adapter together, from normalised images to loss terms.

    Args:
        student: The student.
        adapter: What the method trains beside it, or None.
        method: Computes the terms.
    """

    def __init__(self, student: Student, adapter: nn.Module | None, method: Method) -> None:
        super().__init__()
        self.student = student
        self.adapter = adapter
        self._method = method

    def forward(self, images: Tensor, labels: Tensor, targets: Targets) -> tuple[dict[str, Tensor], Tensor]:
        """Loss terms of a batch, of which ``loss`` is the one to minimise, and the logits (B, K).

        Args:
            images: (B, 3, S, S), normalised.
            labels: (B,) class indices.
            targets: Of the same views.
        """
        logits, tokens = self.student.forward_features(images)
        return self._method.loss(logits, tokens, labels, targets, self.adapter), logits

    def no_weight_decay(self) -> set[str]:
        """Parameters that timm's optimizer factory must not decay."""
        return {f"student.{name}" for name in self.student.no_weight_decay()}
