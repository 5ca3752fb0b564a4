"""Convolutional students of multi-depth-branch blocks, registered with timm.

The block is that of arXiv:2309.17334, a network for super-resolution: a shallow branch of one convolution beside a deep
one of two, added. The classifiers around it (stem, strided stages, norms, widths) are kdcache's own.
"""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from timm.layers.classifier import ClassifierHead
from timm.layers.norm import LayerNorm2d
from timm.models._builder import build_model_with_cfg
from timm.models._features import feature_take_indices
from timm.models._manipulate import checkpoint_seq
from timm.models._registry import generate_default_cfgs, register_model
from torch import Tensor, nn

__all__ = ["MultiDepthBlock", "MultiDepthNet", "ResidualMultiDepth"]

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class MultiDepthBlock(nn.Module):
    """GELU(conv(GELU(conv(x))) + conv(x)), all 3 x 3 with bias, at one width.

    Args:
        width: C.

    Attributes:
        shallow: The branch of one convolution.
        deep: That of two, with a GELU between them.

    Source: arXiv:2309.17334.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shallow = _conv(width, width)
        self.deep = nn.Sequential(_conv(width, width), nn.GELU(), _conv(width, width))

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        return F.gelu(self.deep(maps) + self.shallow(maps))


class ResidualMultiDepth(nn.Module):
    """x + res_scale * second(first(x)), two multi-depth blocks.

    Args:
        width: C.
        res_scale: Weight of the residual.

    Source: arXiv:2309.17334.
    """

    def __init__(self, width: int, *, res_scale: float = 1.0) -> None:
        super().__init__()
        self.first = MultiDepthBlock(width)
        self.second = MultiDepthBlock(width)
        self.res_scale = res_scale

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        return maps + self.res_scale * self.second(self.first(maps))


class _Stage(nn.Module):
    """Half the resolution, then residual blocks."""

    def __init__(self, in_width: int, width: int, depth: int, *, res_scale: float) -> None:
        super().__init__()
        # The blocks have no norm of their own; without one, activations grow from stage to stage.
        self.downsample = nn.Sequential(LayerNorm2d(in_width), _conv(in_width, width, stride=2))
        self.blocks = nn.Sequential(*(ResidualMultiDepth(width, res_scale=res_scale) for _ in range(depth)))
        self.grad_checkpointing = False

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.downsample(maps)
        return checkpoint_seq(self.blocks, maps) if self.grad_checkpointing and self.training else self.blocks(maps)


class MultiDepthNet(nn.Module):
    """A classifier: a strided stem, stages of residual multi-depth blocks at falling resolution, mean and linear layer.

    Args:
        dims: Width of each stage; the stem has that of the first.
        depths: Residual blocks of each stage, two multi-depth blocks each.
        stem_stride: Of the first convolution; each stage halves the resolution again.
        num_classes, in_chans, global_pool, drop_rate: As in other timm models.
        res_scale: As in `ResidualMultiDepth`.

    Attributes:
        feature_info: One entry a stage, as timm's.
    """

    def __init__(
        self,
        dims: Sequence[int],
        depths: Sequence[int],
        *,
        stem_stride: int = 2,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        res_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if len(dims) != len(depths) or not dims or min(*dims, *depths) < 1:
            raise ValueError(f"dims and depths must be as many, each at least 1, got {dims} and {depths}")
        self.num_classes, self.drop_rate = num_classes, drop_rate
        self.stem = _conv(in_chans, dims[0], stride=stem_stride)
        widths = [dims[0], *dims]
        self.stages = nn.Sequential(
            *(
                _Stage(widths[at], width, depth, res_scale=res_scale)
                for at, (width, depth) in enumerate(zip(dims, depths, strict=True))
            )
        )
        self.feature_info: list[dict[str, Any]] = [
            {"num_chs": width, "reduction": stem_stride * 2 ** (at + 1), "module": f"stages.{at}"}
            for at, width in enumerate(dims)
        ]
        self.num_features = self.head_hidden_size = dims[-1]
        self.norm = LayerNorm2d(dims[-1])
        self.head = ClassifierHead(dims[-1], num_classes, pool_type=global_pool, drop_rate=drop_rate)

    def forward_features(self, images: Tensor) -> Tensor:
        """The last stage's map after the final norm, (B, C, H, W), of images (B, 3, S, S)."""
        return self.norm(self.stages(self.stem(images)))

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits (B, K), or the pooled features (B, C), of what `forward_features` gave."""
        return self.head(features, pre_logits=pre_logits)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.forward_head(self.forward_features(images))

    def forward_intermediates(
        self,
        images: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Maps after stages, as in other timm models.

        Args:
            images: (B, 3, S, S), normalised.
            indices: Stages; None for all, a number for so many from the end.
            norm: Whether the last stage's map gets the final norm.
            stop_early: Whether to run no stage after the last one asked for.
            output_fmt: NCHW.
            intermediates_only: Whether to leave out what `forward_features` gives.
        """
        assert output_fmt == "NCHW", "Output shape must be NCHW."
        taken, last = feature_take_indices(len(self.stages), indices)
        maps, found = self.stem(images), list[Tensor]()
        stages = self.stages[: last + 1] if stop_early else self.stages
        for at, stage in enumerate(stages):
            maps = stage(maps)
            if at in taken:
                found.append(self.norm(maps) if norm and at == len(self.stages) - 1 else maps)
        if intermediates_only:
            return found
        return (self.norm(maps) if len(stages) == len(self.stages) else maps), found

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages after the last one of `indices`, and on request norm and head; as in other timm models."""
        taken, last = feature_take_indices(len(self.stages), indices)
        ends_early = last < len(self.stages) - 1
        self.stages = self.stages[: last + 1]
        if prune_norm or ends_early:
            self.norm = nn.Identity()
        if ends_early:
            self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
        if prune_head or ends_early:
            self.reset_classifier(0, "")
        return taken

    def get_classifier(self) -> nn.Module:
        """The linear layer."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a fresh linear layer in place; none for 0 classes.

        Args:
            num_classes: K.
            global_pool: None keeps the pooling; ``""`` takes it away.
        """
        self.num_classes = num_classes
        pool = self.head.global_pool.pool_type if global_pool is None else global_pool
        self.head = ClassifierHead(self.num_features, num_classes, pool_type=pool, drop_rate=self.drop_rate)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute block activations in the backward pass."""
        for stage in self.stages:
            assert isinstance(stage, _Stage)
            stage.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Which parameters belong together, for timm's layer-wise learning rates."""
        downsamples, blocks = (r"^stages\.(\d+)\.downsample", (0,)), (r"^stages\.(\d+)\.blocks\.(\d+)", None)
        norm = (r"^norm", (99999,))
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if coarse else [downsamples, blocks, norm]}


def _conv(in_width: int, width: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_width, width, 3, stride=stride, padding=1)


def _create(name: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    return build_model_with_cfg(
        MultiDepthNet,
        name,
        pretrained,
        feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
        **kwargs,
    )


default_cfgs = generate_default_cfgs(
    {
        name: {
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "pool_size": (7, 7),
            "crop_pct": 0.9,
            "interpolation": "bicubic",
            "mean": _MEAN,
            "std": _STD,
            "first_conv": "stem",
            "classifier": "head.fc",
        }
        for name in ("multi_depth_tiny", "multi_depth_small")
    }
)


@register_model
def multi_depth_tiny(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """6.2 million parameters with 1,000 classes, close to DeiT-Tiny's 5.7."""
    return _create("multi_depth_tiny", pretrained, **{"dims": (32, 64, 128, 256), "depths": (1, 1, 2, 1), **kwargs})


@register_model
def multi_depth_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """15.8 million parameters with 1,000 classes."""
    return _create("multi_depth_small", pretrained, **{"dims": (48, 96, 192, 384), "depths": (1, 1, 3, 1), **kwargs})
