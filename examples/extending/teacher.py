"""Use a teacher that timm does not have: python examples/extending/teacher.py FOLDER, which extracts with it.

A teacher is any model of timm's registry: what is read of it is what timm's own models offer (`forward_intermediates`,
`forward_head`, `num_classes`). Weights of yours come with teacher_weights="FILE".
"""

import sys
from pathlib import Path
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import kdcache


class ScaledVit(VisionTransformer):
    """A ViT whose embedded patches are multiplied by a trained number: stands for a change in your training code."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.input_scale = nn.Parameter(self.cls_token.new_ones(()))

    def _pos_embed(self, x: Tensor) -> Tensor:
        return super()._pos_embed(x * self.input_scale)


# Size, mean and deviation of its images, and the names of its first layer and classifier: as for every model of timm.
default_cfgs = generate_default_cfgs(
    {
        "scaled_vit_tiny.untrained": {
            "input_size": (3, 224, 224),
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "num_classes": 1000,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        }
    }
)


@register_model
def scaled_vit_tiny(pretrained: bool = False, **settings: Any) -> nn.Module:
    """The name under which a teacher of this kind is found, once this file was imported."""
    settings = {"embed_dim": 192, "depth": 12, "num_heads": 3, **settings}
    return build_model_with_cfg(ScaledVit, "scaled_vit_tiny", pretrained, **settings)


def main(folder: str) -> None:
    """Extract some digits with it."""
    kdcache.extract(
        kdcache.ExtractConfig(
            out=Path(folder),
            data="digits:train",
            limit=32,
            teacher="scaled_vit_tiny",
            teacher_weights="random",
            teacher_kwargs={"img_size": 16, "patch_size": 4, "depth": 2, "num_classes": 10},
        )
    )
    print(", ".join(column.label for column in kdcache.open_cache(folder).columns))


if __name__ == "__main__":
    main(*sys.argv[1:])
