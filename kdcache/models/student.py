"""Students: what they are made of, as plain data, and the one module that training and evaluation see."""

from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from kdcache.models.build import create_timm_model, size_arguments
from kdcache.models.lift import Lift
from kdcache.models.taps import Tap, TapReader, token_grid
from kdcache.models.wide_last import widen_last_block

Change = Literal["none", "lift", "widelast"]


@dataclass(frozen=True, kw_only=True)
class StudentSpec:
    """Everything needed to build a student again, without the cache or the method.

    Args:
        name: timm model name.
        kwargs: Further arguments of the model.
        num_classes: K.
        image_size: S, side of the square input in pixels.
        change: What the method does to the architecture.
        width: C_t, the teacher's channels; needed by lift and widelast, else 0.
        block: Block whose patch tokens carry the feature loss, negative from the end; None when there is none.
    """

    name: str
    num_classes: int
    image_size: int
    kwargs: dict[str, Any] = field(default_factory=dict)
    change: Change = "none"
    width: int = 0
    block: int | None = None

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {self.num_classes}")
        if self.change != "none" and self.width < 1:
            raise ValueError(f"{self.change} needs the teacher's width, got {self.width}")


class Student(nn.Module):
    """A timm model, possibly changed, that gives logits and, if asked, the tokens of its feature tap.

    Args:
        model: The network.
        block: As in StudentSpec.
    """

    def __init__(self, model: nn.Module, block: int | None) -> None:
        super().__init__()
        self.model = model
        self._lifted = isinstance(model, Lift)
        taps = [Tap("logits")] if block is None else [Tap("patch", block), Tap("logits")]
        self._reader = None if self._lifted or block is None else TapReader(model, taps)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of normalised images (B, 3, S, S)."""
        return _single(self.model(images))

    def forward_features(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits and the feature tap's tokens (B, N, C), None when the student has no feature tap."""
        if isinstance(self.model, Lift):
            return self.model.forward_tokens(images)
        if self._reader is None:
            return self.forward(images), None
        read = self._reader(self.model, images)
        return _single(read[self._reader.taps[1]]), read[self._reader.taps[0]]

    def no_weight_decay(self) -> set[str]:
        """Parameters that timm's optimizer factory must not decay."""
        names = self.model.no_weight_decay() if hasattr(self.model, "no_weight_decay") else ()  # pyright: ignore
        return {f"model.{name}" for name in names}


def _single(logits: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    # Distilled DeiT gives two sets of logits while training; its own inference takes their mean.
    return logits if isinstance(logits, Tensor) else (logits[0] + logits[1]) / 2


def build_student(spec: StudentSpec) -> Student:
    """Build a student with fresh weights from torch's random state.

    Raises: ModelError for unknown names or architectures the change cannot be applied to, TapError.
    """

    def build(**more: Any) -> nn.Module:
        kwargs = {**size_arguments(spec.name, spec.image_size), **spec.kwargs, "num_classes": spec.num_classes, **more}
        return create_timm_model(spec.name, kwargs=kwargs)

    if spec.change == "lift":
        return Student(Lift(build(), width=spec.width, num_classes=spec.num_classes), None)
    if spec.change == "widelast":
        return Student(widen_last_block(build, width=spec.width), -1)
    return Student(build(), spec.block)


def student_grid(student: Student, spec: StudentSpec) -> tuple[int, int]:
    """Rows and columns of the student's patch tokens at its feature tap."""
    network = student.model.trunk if isinstance(student.model, Lift) else student.model
    block = -1 if spec.block is None else spec.block
    return token_grid(network, block, spec.image_size)


def count_parameters(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
