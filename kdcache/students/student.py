"""Students: what they are made of, as plain data, and the one module that training and evaluation see."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, final

import msgspec
from torch import Tensor, nn

from kdcache.errors import ModelError, Remedy, TapError
from kdcache.models.build import create_timm_model, load_weights, size_arguments
from kdcache.models.taps import Tap, TapReader, mean_logits, num_blocks, token_grid
from kdcache.ops import LiftedTokens
from kdcache.students import load_change
from kdcache.students.change import Change, TokenHead, Unchanged, trunk_of


@dataclass(frozen=True, kw_only=True)
class StudentSpec:
    """Everything needed to build a student again, without the cache or the method.

    Args:
        name: timm model name.
        kwargs: Further arguments of the model.
        num_classes: K.
        image_size: S, side of the square input in pixels.
        change: What the method does to the architecture, with its width.
    """

    name: str
    num_classes: int
    image_size: int
    kwargs: dict[str, Any] = field(default_factory=dict)
    change: Change = field(default_factory=Unchanged)

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {self.num_classes}")


class StudentOutputs(NamedTuple):
    """What a student gives for a batch.

    Attributes:
        logits: (B, K).
        tokens: (B, N, C) for each tap that was set, in that order.
        unformed: The tokens of the change as a product, where that was asked for; those among `tokens` are then what
            the product is taken of, (B, N, C_s).
    """

    logits: Tensor
    tokens: tuple[Tensor, ...]
    unformed: LiftedTokens | None = None


@final
class Student(nn.Module):
    """A timm model, possibly changed, that gives logits and the tokens of its taps.

    Args:
        model: The network.
        decays_embeddings: As in Change.

    Attributes:
        taps: What `outputs` reads, resolved; none at first.
        note: Which weights of several in a file it began with; None where there was no choice.
    """

    def __init__(self, model: nn.Module, *, decays_embeddings: bool = False) -> None:
        super().__init__()
        self.model = model
        self._decays_embeddings = decays_embeddings
        self.taps: list[Tap] = []
        self.note: str | None = None
        self._reader: TapReader | None = None

    @property
    def network(self) -> nn.Module:
        """The timm model whose blocks are read."""
        return trunk_of(self.model)

    def set_taps(self, taps: Sequence[Tap]) -> None:
        """Choose what `outputs` reads.

        Args:
            taps: A patch or prefix tap without a block is the last block's; a patch tap without one is what the change
                makes, where it makes tokens of its own.

        Raises: TapError for a tap that this student does not have.
        """
        own_head = isinstance(self.model, TokenHead)
        chosen: list[Tap] = []
        for tap in taps:
            if tap.kind == "change" and not own_head:
                raise TapError("this student has no tokens of a change (change/tokens); lift makes some")
            if own_head and tap.kind in ("change", "embedding", "logits"):
                if tap.kind != "change":
                    raise TapError(f"a lifted student has no {tap}; choose patch tokens, or a method without lift")
                chosen.append(tap)
            elif own_head and tap.kind == "patch" and tap.block is None:
                chosen.append(Tap("change"))
            elif tap.kind in ("patch", "prefix") and tap.block is None:
                chosen.append(Tap(tap.kind, -1).resolve(num_blocks(self.network)))
            else:
                chosen.append(tap.resolve(num_blocks(self.network)))
        self.taps = chosen
        own = [tap for tap in dict.fromkeys(chosen) if tap.kind != "change"]
        if own_head:
            self._reader = TapReader(self.network, list(dict.fromkeys([Tap("patch", -1), *own])))
        else:
            self._reader = TapReader(self.network, [*own, Tap("logits")]) if own else None

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of normalised images (B, 3, S, S)."""
        return mean_logits(self.model(images))

    def outputs(self, images: Tensor, *, form_change: bool = True) -> StudentOutputs:
        """Logits and the tokens of the taps; one forward for all of them.

        Args:
            images: (B, 3, S, S), normalised.
            form_change: Whether to form the tokens of the change, where a tap reads them.
        """
        if self._reader is None:
            return StudentOutputs(self.forward(images), ())
        read, unformed = self._reader(self.network, images), None
        if not isinstance(self.model, TokenHead):
            logits = read[Tap("logits")]
        elif form_change:
            logits, read[Tap("change")] = self.model.finish(read[self._reader.taps[0]])
        else:
            logits, unformed = self.model.finish_unformed(read[self._reader.taps[0]])
            read[Tap("change")] = unformed.tokens
        return StudentOutputs(logits, tuple(_as_tokens(read[tap]) for tap in self.taps), unformed)

    def no_weight_decay(self) -> set[str]:
        """Parameters that timm's optimizer factory must not decay."""
        if self._decays_embeddings:
            return set()
        names = self.model.no_weight_decay() if hasattr(self.model, "no_weight_decay") else ()  # pyright: ignore
        return {f"model.{name}" for name in names}


def _as_tokens(values: Tensor) -> Tensor:
    # An embedding (B, C) is one token.
    return values.unsqueeze(1) if values.dim() == 2 else values


def build_student(spec: StudentSpec, *, weights: str | None = None) -> Student:
    """Build a student, fresh from torch's random state or from the weights of a trained model.

    Args:
        spec: The student.
        weights: What the model of its name begins with before it is changed: ``hub`` for timm's own, a local file, or
            ``random``; None where the change needs none. A classifier for other classes is left fresh.

    Raises: ModelError for unknown names, architectures the change cannot be applied to, or weights that do not fit;
        TapError.
    """
    change, notes = spec.change, list[str]()
    if weights is None and change.needs_weights:
        raise ModelError(
            f"{change.name} is made from the weights of a trained {spec.name}", remedy=Remedy.GIVE_STUDENT_WEIGHTS
        )
    model = change.apply(partial(_build, spec, weights, notes))
    student = Student(model, decays_embeddings=change.decays_embeddings)
    student.note = "; ".join(dict.fromkeys(notes)) or None
    return student


def rebuild_student(spec: StudentSpec) -> Student:
    """Build a student whose own weights will be loaded into it."""
    return build_student(replace(spec, change=spec.change.without_weights()), weights="random")


def merge_student(student: Student, spec: StudentSpec) -> tuple[Student, StudentSpec]:
    """A trained student without what only its training needed, and what it is then; the outputs are the same."""
    merged = spec.change.merge(student.model)
    changed = replace(spec, kwargs={**spec.kwargs, **merged.kwargs}, change=merged.change)
    return Student(merged.model), changed


def read_spec(facts: dict[str, Any]) -> StudentSpec:
    """A spec from the plain values of its JSON.

    Raises: msgspec.ValidationError, UsageError or KeyError for other values.
    """
    change = msgspec.convert(facts["change"], load_change(facts["change"]["name"]))
    plain = {name: value for name, value in facts.items() if name != "change"}
    return replace(msgspec.convert(plain, StudentSpec), change=change)


def _build(spec: StudentSpec, weights: str | None, notes: list[str], **more: Any) -> nn.Module:
    kwargs = {**size_arguments(spec.name, spec.image_size), **spec.kwargs, "num_classes": spec.num_classes, **more}
    if more or weights in (None, "random"):
        return create_timm_model(spec.name, kwargs=kwargs)
    model = create_timm_model(spec.name, pretrained=weights == "hub", kwargs=kwargs)
    if weights == "hub":
        notes += _adapted_by_timm(model, spec)
    elif note := load_weights(model, weights, other_classes=True):
        notes.append(note)
    return model


def _adapted_by_timm(model: nn.Module, spec: StudentSpec) -> list[str]:
    """What timm leaves out or resizes of its own weights without a word."""
    known: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    notes: list[str] = []
    if known.get("num_classes") not in (None, spec.num_classes):
        notes.append(f"timm's classifier is of {known['num_classes']} classes, and begins fresh for {spec.num_classes}")
    if known.get("fixed_input_size") and known["input_size"][-1] != spec.image_size:
        notes.append(
            f"timm's weights are for images of {known['input_size'][-1]} px, and were resized for those of "
            f"{spec.image_size} px"
        )
    return notes


def tap_grid(student: Student, tap: Tap, image_size: int) -> tuple[int, int] | None:
    """Rows and columns of the tokens at a resolved tap; None for prefix tokens and embeddings."""
    if tap.kind not in ("patch", "change"):
        return None
    return token_grid(student.network, -1 if tap.block is None else tap.block, image_size)
