"""Taps: which block's output, which tokens. Read from any timm model through its `forward_intermediates`."""

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kdcache.errors import TapError

TapKind = Literal["patch", "prefix", "logits", "embedding", "change"]
_BLOCK_TAP = re.compile(r"blocks\.(-?\d+)/(patch|prefix)")
_LARGEST_DIFFERENCE = 1e-2
# Taps without a block.
_NAMES: dict[TapKind, str] = {"logits": "head/logits", "embedding": "head/embedding", "change": "change/tokens"}
_KINDS: dict[str, TapKind] = {name: kind for kind, name in _NAMES.items()}


@dataclass(frozen=True)
class Tap:
    """One place of a model whose output is read.

    Args:
        kind: ``patch`` (spatial tokens of a block), ``prefix`` (class, distillation and register tokens of a block),
            ``logits``, ``embedding`` (the pooled feature in front of the classifier), or ``change`` (the tokens that
            a changed student makes for its feature loss, such as Lift's).
        block: Block number, negative from the end; for patch and prefix only. Blocks are those of timm's
            `forward_intermediates`: CaiT's class-attention blocks are not among them.
    """

    kind: TapKind
    block: int | None = None

    def __str__(self) -> str:
        return _NAMES[self.kind] if self.block is None else f"blocks.{self.block}/{self.kind}"

    def resolve(self, num_blocks: int) -> "Tap":
        """The same tap with its block counted from 0.

        Raises: TapError if there is no such block.
        """
        if self.block is None:
            return self
        if not -num_blocks <= self.block < num_blocks:
            raise TapError(
                f"tap {self}: this model has {num_blocks} blocks; choose blocks.0 to blocks.{num_blocks - 1}, or count "
                f"from the end with blocks.-1 to blocks.-{num_blocks}"
            )
        return Tap(self.kind, self.block % num_blocks)


def parse_tap(text: str) -> Tap:
    """Read ``blocks.-1/patch``, ``blocks.3/prefix``, ``head/logits``, ``head/embedding`` or ``change/tokens``.

    Raises: TapError.
    """
    if text in _KINDS:
        return Tap(_KINDS[text])
    match = _BLOCK_TAP.fullmatch(text)
    if match is None:
        raise TapError(f"{text!r} is not a tap; taps look like blocks.-1/patch, blocks.0/prefix or head/logits")
    return Tap("patch" if match[2] == "patch" else "prefix", int(match[1]))


class TapReader:
    """Runs a timm model and returns its outputs at the taps; one forward for all of them.

    Args:
        model: Any timm model with `forward_intermediates`.
        taps: Taps to read; block numbers may be negative.

    The outputs are those of one ordinary forward of the model, in training too: with the same random state its dropout
    drops the same values, and the logits are equal to the bit.

    Raises: TapError for a model without intermediates, a block it does not have, prefix tokens, a classifier or an
        embedding that it does not give, patch tokens of a model that drops patches in training, and for
        ``change/tokens``, which no timm model has by itself.

    Attributes:
        taps: Resolved, in the order given.
    """

    def __init__(self, model: nn.Module, taps: Sequence[Tap]) -> None:
        self.taps = [tap.resolve(num_blocks(model)) for tap in taps]
        for tap in self.taps:
            _check_tap(model, tap)
        self._blocks = sorted({tap.block for tap in self.taps if tap.block is not None})
        self._prefix = any(tap.kind == "prefix" for tap in self.taps)
        if self._prefix and not num_prefix_tokens(model):
            raise TapError(f"{type(model).__name__} has no prefix tokens in its blocks; use the patch tap")
        # Logits first: what the head drops in training must be what it drops in an ordinary forward.
        self._head = sorted({tap for tap in self.taps if tap.block is None}, key=lambda tap: tap.kind != "logits")
        # Convolutional and hierarchical models (Swin too, whatever its inner layout) offer only maps, (B, C, H, W).
        self._tokens = hasattr(model, "blocks") and hasattr(model, "num_prefix_tokens")

    def __call__(self, model: nn.Module, images: Tensor) -> dict[Tap, Tensor]:
        """Run the model once.

        Args:
            model: The model given at construction, or a copy of it.
            images: (B, 3, S, S), normalised.

        Returns: {tap: (B, N, C) raw block output before the final norm, (B, K) logits or (B, C) embedding}.
        """
        arguments: dict[str, Any] = {
            "indices": self._blocks or [-1],
            "norm": False,
            "output_fmt": "NLC" if self._tokens else "NCHW",
            "intermediates_only": not self._head,
            "stop_early": not self._head,
        }
        if self._prefix:
            arguments["return_prefix_tokens"] = True
        result = model.forward_intermediates(images, **arguments)  # pyright: ignore[reportCallIssue]
        final, outputs = result if self._head else (None, result)
        heads = {tap: _run_head(model, tap, final) for tap in self._head}
        by_block: Mapping[int, Any] = dict(zip(self._blocks, outputs, strict=False))
        return {tap: heads[tap] if tap.block is None else self._pick(tap, by_block[tap.block]) for tap in self.taps}

    def _pick(self, tap: Tap, output: Any) -> Tensor:
        patch, prefix = output if self._prefix else (output, None)
        if tap.kind == "prefix":
            assert prefix is not None, "the constructor asks for them"
            return prefix
        return patch if self._tokens else patch.flatten(2).transpose(1, 2)


def num_blocks(model: nn.Module) -> int:
    """How many outputs `forward_intermediates` of a timm model offers.

    Raises: TapError for a model that has none.
    """
    if not hasattr(model, "forward_intermediates"):
        raise TapError(f"{type(model).__name__} has no forward_intermediates; choose another timm model")
    return len(model.feature_info)  # pyright: ignore[reportArgumentType]


def num_prefix_tokens(model: nn.Module) -> int:
    """Class, distillation and register tokens that a model's blocks hold before the patch tokens; 0 for CaiT."""
    parameters = inspect.signature(model.forward_intermediates).parameters  # pyright: ignore[reportArgumentType]
    return getattr(model, "num_prefix_tokens", 0) if "return_prefix_tokens" in parameters else 0


def check_logits(model: nn.Module, images: Tensor, logits: Tensor) -> None:
    """Refuse a model whose ordinary forward gives other logits than its tap.

    Args:
        model: In evaluation mode.
        images: (B, 3, S, S), normalised.
        logits: (B, K), what a TapReader read of them.

    Raises: TapError.
    """
    expected = model(images).float()
    error = float(torch.linalg.vector_norm(logits.float() - expected) / torch.linalg.vector_norm(expected))
    # Equal to the bit on a CPU; an accelerator may choose other kernels, which no missing layer is as small as.
    if error > _LARGEST_DIFFERENCE:
        raise TapError(
            f"{type(model).__name__}: its forward_intermediates gives other logits than its forward (relative error "
            f"{error:.2g}); choose another timm model, or leave out head/logits"
        )


def token_grid(model: nn.Module, block: int, image_size: int) -> tuple[int, int]:
    """Rows and columns of the patch tokens of a block, from a forward of one black image."""
    device = next(model.parameters()).device
    black = torch.zeros(1, 3, image_size, image_size, device=device)
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        maps = model.forward_intermediates(  # pyright: ignore[reportCallIssue]
            black, indices=[block], intermediates_only=True
        )
    model.train(was_training)
    rows, columns = maps[0].shape[-2:]
    return int(rows), int(columns)


def _run_head(model: nn.Module, tap: Tap, final: Tensor | None) -> Tensor:
    if tap.kind == "embedding":
        return model.forward_head(final, pre_logits=True)  # pyright: ignore[reportCallIssue]
    return mean_logits(model.forward_head(final))  # pyright: ignore[reportCallIssue]


def mean_logits(logits: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    """Logits (B, K) of a model that gives them once, or twice as a distilled one in distilled training.

    Its own inference takes the mean of the two.
    """
    return (logits[0] + logits[1]) / 2 if isinstance(logits, tuple) else logits


def has_classifier(model: nn.Module) -> bool:
    """Whether a timm model gives logits of classes; DINOv2, SigLIP and their like have num_classes=0."""
    return bool(getattr(model, "num_classes", 1))


def _check_tap(model: nn.Module, tap: Tap) -> None:
    name = type(model).__name__
    if tap.kind == "patch" and getattr(getattr(model, "patch_drop", None), "prob", 0) > 0:
        raise TapError(
            f"{name} drops patches in training (patch_drop_rate), so that {tap} has no fixed tokens; leave "
            "patch_drop_rate out"
        )
    if tap.kind == "change":
        raise TapError(f"{name} has no {tap}: only a student that a method has changed has it; choose another tap")
    if tap.kind == "logits" and not has_classifier(model):
        raise TapError(
            f"{name} has no classifier (num_classes=0), so that {tap} would be its pooled feature; "
            "use head/embedding for that feature"
        )
    if tap.kind == "embedding" and "pre_logits" not in inspect.signature(model.forward_head).parameters:  # pyright: ignore[reportArgumentType]
        raise TapError(f"{name} gives no embedding (its forward_head takes no pre_logits); choose another tap")
