"""Students: what they are made of, as plain data, and the one module that training and evaluation see."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, final

from torch import Tensor, nn

from kdcache.errors import TapError
from kdcache.models.build import create_timm_model, size_arguments
from kdcache.models.lift import Lift
from kdcache.models.taps import Tap, TapReader, num_blocks, token_grid
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
        width: C, channels of the tokens that lift and widelast make; else 0.
    """

    name: str
    num_classes: int
    image_size: int
    kwargs: dict[str, Any] = field(default_factory=dict)
    change: Change = "none"
    width: int = 0

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {self.num_classes}")
        if self.change != "none" and self.width < 1:
            raise ValueError(f"{self.change} needs a width, got {self.width}")


class StudentOutputs(NamedTuple):
    """What a student gives for a batch.

    Attributes:
        logits: (B, K).
        tokens: (B, N, C) for each tap that was set, in that order.
    """

    logits: Tensor
    tokens: tuple[Tensor, ...]


@final
class Student(nn.Module):
    """A timm model, possibly changed, that gives logits and the tokens of its taps.

    Args:
        model: The network.

    Attributes:
        taps: What `outputs` reads, resolved; none at first.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.taps: list[Tap] = []
        self._reader: TapReader | None = None

    @property
    def network(self) -> nn.Module:
        """The timm model whose blocks are read."""
        return self.model.trunk if isinstance(self.model, Lift) else self.model

    def set_taps(self, taps: Sequence[Tap]) -> None:
        """Choose what `outputs` reads.

        Args:
            taps: A patch or prefix tap without a block is the last block's; a patch tap without one is what the change
                makes, where it makes tokens of its own.

        Raises: TapError for a tap that this student does not have.
        """
        lifted = isinstance(self.model, Lift)
        chosen: list[Tap] = []
        for tap in taps:
            if tap.kind == "change" and not lifted:
                raise TapError("this student has no tokens of a change (change/tokens); only lift makes them")
            if lifted and tap.kind in ("change", "embedding", "logits"):
                if tap.kind != "change":
                    raise TapError(f"a lifted student has no {tap}; choose patch tokens, or a method without lift")
                chosen.append(tap)
            elif lifted and tap.kind == "patch" and tap.block is None:
                chosen.append(Tap("change"))
            elif tap.kind in ("patch", "prefix") and tap.block is None:
                chosen.append(Tap(tap.kind, -1).resolve(num_blocks(self.network)))
            else:
                chosen.append(tap.resolve(num_blocks(self.network)))
        self.taps = chosen
        own = [tap for tap in dict.fromkeys(chosen) if tap.kind != "change"]
        if lifted:
            self._reader = TapReader(self.network, list(dict.fromkeys([Tap("patch", -1), *own])))
        else:
            self._reader = TapReader(self.network, [*own, Tap("logits")]) if own else None

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of normalised images (B, 3, S, S)."""
        return _single(self.model(images))

    def outputs(self, images: Tensor) -> StudentOutputs:
        """Logits and the tokens of the taps, of normalised images (B, 3, S, S); one forward for all of them."""
        if self._reader is None:
            return StudentOutputs(self.forward(images), ())
        read = self._reader(self.network, images)
        if isinstance(self.model, Lift):
            logits, read[Tap("change")] = self.model.lift(read[self._reader.taps[0]])
        else:
            logits = read[Tap("logits")]
        return StudentOutputs(_single(logits), tuple(_as_tokens(read[tap]) for tap in self.taps))

    def no_weight_decay(self) -> set[str]:
        """Parameters that timm's optimizer factory must not decay."""
        names = self.model.no_weight_decay() if hasattr(self.model, "no_weight_decay") else ()  # pyright: ignore
        return {f"model.{name}" for name in names}


def _as_tokens(values: Tensor) -> Tensor:
    # An embedding (B, C) is one token.
    return values.unsqueeze(1) if values.dim() == 2 else values


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
        return Student(Lift(build(), width=spec.width, num_classes=spec.num_classes))
    if spec.change == "widelast":
        return Student(widen_last_block(build, width=spec.width))
    return Student(build())


def tap_grid(student: Student, tap: Tap, image_size: int) -> tuple[int, int] | None:
    """Rows and columns of the tokens at a resolved tap; None for prefix tokens and embeddings."""
    if tap.kind not in ("patch", "change"):
        return None
    return token_grid(student.network, -1 if tap.block is None else tap.block, image_size)


def count_parameters(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
