"""Lift (arXiv:2511.15572): a projection to the teacher's width that stays in the student."""

from typing import Any

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from kdcache.errors import ModelError


class Lift(nn.Module):
    """A ViT trunk whose last-block patch tokens are projected to the teacher's width and normalised.

    The lifted tokens carry the feature loss and stay at inference: logits are a linear map of their mean. The class
    token takes part in attention only. The trunk's own final norm and head are dropped (the released code keeps them
    unused: 193,384 parameters of DeiT-Tiny).

    Args:
        trunk: A timm VisionTransformer.
        width: C_t, channels of the teacher's features.
        num_classes: K.

    Raises: ModelError for a trunk that is not a timm VisionTransformer.
    Source: arXiv:2511.15572; LayerNorm and mean pooling are facts of its released code.
    """

    def __init__(self, trunk: nn.Module, *, width: int, num_classes: int) -> None:
        super().__init__()
        if not isinstance(trunk, VisionTransformer):
            raise ModelError(
                f"lift needs a timm VisionTransformer (ViT, DeiT, ...), {type(trunk).__name__} is none; choose a "
                "student such as deit_tiny_patch16_224, or another method"
            )
        trunk.reset_classifier(0)
        if hasattr(trunk, "head_dist"):
            trunk.head_dist = nn.Identity()
        trunk.norm = nn.Identity()
        trunk.fc_norm = nn.Identity()
        self.trunk = trunk
        self.project = nn.Linear(trunk.embed_dim, width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)
        for layer in (self.project, self.head):
            nn.init.trunc_normal_(layer.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward_tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and lifted patch tokens (B, N, C_t) of normalised images (B, 3, S, S)."""
        outputs: Any = self.trunk.forward_intermediates(images, indices=[-1], output_fmt="NLC", intermediates_only=True)
        return self.lift(outputs[0])

    def lift(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and lifted tokens (B, N, C_t) of the trunk's last patch tokens (B, N, C_s)."""
        lifted = self.norm(self.project(tokens))
        return self.head(lifted.mean(dim=1)), lifted

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.forward_tokens(images)[0]

    def no_weight_decay(self) -> set[str]:
        """Parameters timm's optimizer factory must not decay: the trunk's own."""
        return {f"trunk.{name}" for name in self.trunk.no_weight_decay()}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute block activations in the backward pass."""
        self.trunk.set_grad_checkpointing(enable)
