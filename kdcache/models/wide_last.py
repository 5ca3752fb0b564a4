"""WideLast (arXiv:2511.15572): the student's last block at the teacher's width."""

from collections.abc import Callable

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from kdcache.errors import ModelError

# As in the released code, and in every other LayerNorm of timm's ViTs; torch's own default is 1e-5.
_EPS = 1e-6


class WidenedBlock(nn.Module):
    """Projection of all tokens to a new width, LayerNorm, then one transformer block of that width.

    Args:
        block: The wide block.
        in_width: Channels coming in.
        width: Channels of the block.
    """

    def __init__(self, block: nn.Module, *, in_width: int, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(in_width, width, bias=False)
        self.norm = nn.LayerNorm(width, eps=_EPS)
        self.block = block
        nn.init.trunc_normal_(self.project.weight, std=0.02)

    def forward(self, tokens: Tensor, *args: object, **kwargs: object) -> Tensor:
        """(B, N, in_width) to (B, N, width); further arguments go to the block."""
        return self.block(self.norm(self.project(tokens)), *args, **kwargs)


def widen_last_block(build: Callable[..., nn.Module], *, width: int) -> VisionTransformer:
    """A timm ViT whose last block, final norm and head have the teacher's width.

    The wide block has the model's own design (head dimension, MLP ratio, layer scale, ...): it is taken from the same
    architecture built at the teacher's width.

    Args:
        build: Builds the student; called once as it is and once with embed_dim and num_heads.
        width: C_t, channels of the teacher's features.

    Raises: ModelError for a student that is not a timm VisionTransformer or a width its heads do not divide.
    Source: arXiv:2511.15572, schedule ``heads_step`` of the released code: head dimension kept, so 192/3 heads
        becomes 384/6.
    """
    model = build()
    if not isinstance(model, VisionTransformer):
        raise ModelError(
            f"widelast needs a timm VisionTransformer (ViT, DeiT, ...), {type(model).__name__} is not one; choose a "
            "student such as deit_tiny_patch16_224, or another method"
        )
    narrow = model.embed_dim
    head_dim = narrow // model.blocks[-1].attn.num_heads  # pyright: ignore[reportAttributeAccessIssue, reportOperatorIssue]
    if width % head_dim:
        raise ModelError(
            f"widelast keeps the student's head dimension {head_dim}, which does not divide the teacher's width "
            f"{width}; choose a student with another head dimension, or the method lift"
        )
    wide = build(embed_dim=width, num_heads=width // head_dim)
    assert isinstance(wide, VisionTransformer)
    model.blocks[-1] = WidenedBlock(wide.blocks[-1], in_width=narrow, width=width)
    for name in ("norm", "attn_pool", "fc_norm", "head", "head_dist"):
        if hasattr(model, name):
            setattr(model, name, getattr(wide, name))
    model.feature_info[-1]["num_chs"] = width
    model.embed_dim = model.num_features = model.head_hidden_size = width
    return model
