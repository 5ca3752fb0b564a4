"""Lift (arXiv:2511.15572): a projection to the teacher's width that stays in the student."""

from dataclasses import dataclass
from typing import Any, Literal, final

from torch import Tensor, nn

from kdcache.models.taps import Tap, TapReader
from kdcache.students.change import Build, Init, TokenHead, WidthChange
from kdcache.students.families import drop_head


@final
@dataclass(frozen=True, kw_only=True)
class LiftChange(WidthChange):
    """Last patch tokens projected to another width and normalised; logits from their mean.

    ``init="released"`` is torch's own for both new linear layers.
    """

    name: Literal["lift"] = "lift"

    def apply(self, build: Build) -> nn.Module:
        """See Change."""
        trunk: Any = build()
        return Lift(trunk, width=self.known_width, num_classes=trunk.num_classes, init=self.init)


@final
class Lift(TokenHead):
    """A trunk whose last patch tokens are projected to the teacher's width and normalised.

    The lifted tokens carry the feature loss and stay at inference: logits are a linear map of their mean. A class
    token takes part in attention only. The trunk's own final norm and head are dropped (the released code keeps them
    unused: 193,384 parameters of DeiT-Tiny).

    Args:
        trunk: A timm model with intermediate outputs: ViT, CaiT, Swin, ConvNets.
        width: C_t, channels of the teacher's features.
        num_classes: K.
        init: As in WidthChange.

    Raises: ModelError for a trunk whose head timm cannot take away.
    Source: arXiv:2511.15572, for DeiT; LayerNorm and mean pooling are facts of its released code.
    """

    def __init__(self, trunk: nn.Module, *, width: int, num_classes: int, init: Init = "timm") -> None:
        super().__init__()
        self.trunk = drop_head(trunk)
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = width
        channels = trunk.feature_info[-1]["num_chs"]  # pyright: ignore[reportIndexIssue, reportArgumentType]
        self._reader = TapReader(trunk, [Tap("patch", -1)])
        self.project = nn.Linear(channels, width, bias=False)  # pyright: ignore[reportArgumentType]
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)
        if init == "timm":
            for layer in (self.project, self.head):
                nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(self.head.bias)

    def forward_tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and lifted patch tokens (B, N, C_t) of normalised images (B, 3, S, S)."""
        return self.finish(self._reader(self.trunk, images)[self._reader.taps[0]])

    def finish(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and lifted tokens (B, N, C_t) of the trunk's last patch tokens (B, N, C_s)."""
        lifted = self.norm(self.project(tokens))
        return self.head(lifted.mean(dim=1)), lifted

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.forward_tokens(images)[0]

    def no_weight_decay(self) -> set[str]:
        """Parameters timm's optimizer factory must not decay: the trunk's own."""
        names = self.trunk.no_weight_decay() if hasattr(self.trunk, "no_weight_decay") else ()  # pyright: ignore
        return {f"trunk.{name}" for name in names}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute block activations in the backward pass."""
        self.trunk.set_grad_checkpointing(enable)  # pyright: ignore[reportCallIssue]
