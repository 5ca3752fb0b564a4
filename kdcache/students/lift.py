"""Lift (arXiv:2511.15572): a projection to the teacher's width that stays in the student."""

from dataclasses import dataclass
from typing import Any, Literal, final

from torch import Tensor, nn

from kdcache import ops
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
        num_classes: K; 0 for the mean lifted token in place of logits.
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
        self.head = _classifier(width, num_classes)
        self._init: Init = init
        for layer in (self.project, self.head):
            _initialize(layer, init)

    def forward_features(self, images: Tensor) -> Tensor:
        """Lifted patch tokens (B, N, C_t) of normalised images (B, 3, S, S)."""
        return self._lift(self._reader(self.trunk, images)[self._reader.taps[0]])

    def forward_head(self, tokens: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits (B, K) of lifted tokens (B, N, C_t); on request, and without classes, their mean (B, C_t)."""
        pooled = tokens.mean(dim=1)
        return pooled if pre_logits else self.head(pooled)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.forward_head(self.forward_features(images))

    def finish(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and lifted tokens (B, N, C_t) of the trunk's last patch tokens (B, N, C_s)."""
        lifted = self._lift(tokens)
        return self.forward_head(lifted), lifted

    def finish_unformed(self, tokens: Tensor) -> tuple[Tensor, ops.LiftedTokens]:
        """As `finish`: equal but for rounding, and without a tensor of C_t channels a token."""
        norm = self.norm
        lifted = ops.lift_tokens(tokens, self.project.weight, norm.weight, norm.bias, eps=norm.eps)
        return self.head(lifted.pooled()), lifted

    def _lift(self, tokens: Tensor) -> Tensor:
        return self.norm(self.project(tokens))

    def get_classifier(self) -> nn.Module:
        """The linear layer, or the identity without classes."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a fresh linear layer in place; none for 0 classes.

        Args:
            num_classes: K.
            global_pool: None or ``avg``, the mean that lifted tokens are always pooled by.

        Raises: ValueError for another pooling.
        """
        if global_pool not in (None, "avg"):
            raise ValueError(f"a lifted student pools its tokens by their mean, got global_pool={global_pool!r}")
        self.num_classes = num_classes
        placed = self.project.weight
        self.head = _classifier(self.num_features, num_classes).to(placed.device, placed.dtype)
        _initialize(self.head, self._init)

    def no_weight_decay(self) -> set[str]:
        """Parameters timm's optimizer factory must not decay: the trunk's own."""
        names = self.trunk.no_weight_decay() if hasattr(self.trunk, "no_weight_decay") else ()  # pyright: ignore
        return {f"trunk.{name}" for name in names}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute block activations in the backward pass."""
        self.trunk.set_grad_checkpointing(enable)  # pyright: ignore[reportCallIssue]


def _classifier(width: int, num_classes: int) -> nn.Module:
    return nn.Linear(width, num_classes) if num_classes else nn.Identity()


def _initialize(layer: nn.Module, init: Init) -> None:
    """Draw a new layer's weights again where they are not to be torch's own."""
    if init == "timm" and isinstance(layer, nn.Linear):
        nn.init.trunc_normal_(layer.weight, std=0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
