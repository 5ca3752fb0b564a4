"""What changes must know of an architecture: where its blocks are, and what follows the last of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from timm.models.cait import Cait
from timm.models.convnext import ConvNeXt
from timm.models.resnet import ResNet
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from kdcache.errors import ModelError


@dataclass(frozen=True)
class Family:
    """One timm architecture.

    Args:
        name: What users call it.
        kind: Its class; models of a subclass belong to it too.
        blocks: Modules that hold the blocks, in order; ``*`` stands for the number of a stage.
        depth: Argument that sets how many blocks there are, a number or one for each stage.
        after: What follows the last block and has its width; empty where blocks cannot be widened alone.
    """

    name: str
    kind: type[nn.Module]
    blocks: str
    depth: str
    after: tuple[str, ...] = ()


_FAMILIES = (
    Family("ViT", VisionTransformer, "blocks", "depth", ("norm", "attn_pool", "fc_norm", "head", "head_dist")),
    Family("CaiT", Cait, "blocks", "depth", ("cls_token", "blocks_token_only", "norm", "head")),
    Family("Swin", SwinTransformer, "layers.*.blocks", "depths", ("norm", "head")),
    Family("ConvNeXt", ConvNeXt, "stages.*.blocks", "depths"),
    Family("ResNet", ResNet, "layer*", "layers"),
)
_NUM_RESNET_STAGES = 4


def family_of(model: nn.Module, *, change: str) -> Family:
    """The family of a timm model.

    Args:
        model: The model.
        change: Which change asks, for the message.

    Raises: ModelError naming the families there are.
    """
    if (family := _known(model)) is not None:
        return family
    raise ModelError(
        f"{change} knows the blocks of {', '.join(family.name for family in _FAMILIES)} models of timm, "
        f"{type(model).__name__} is not one of them; choose such a student, or another method"
    )


def _known(model: nn.Module) -> Family | None:
    return next((family for family in _FAMILIES if isinstance(model, family.kind)), None)


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """All blocks of a timm model, in order; none for a model of a family that is not known here."""
    family = _known(model)
    lists = [] if family is None else block_lists(model, family).values()
    return [block for each in lists for block in each.children()]


def block_lists(model: nn.Module, family: Family) -> dict[str, nn.Module]:
    """The modules that hold a model's blocks, one for each stage, by their names."""
    if "*" not in family.blocks:
        return {family.blocks: model.get_submodule(family.blocks)}
    if family.kind is ResNet:
        numbers: Sequence[int] = range(1, _NUM_RESNET_STAGES + 1)
    else:
        numbers = range(len(getattr(model, family.blocks.partition(".")[0])))
    names = [family.blocks.replace("*", str(number)) for number in numbers]
    return {name: model.get_submodule(name) for name in names}


def depth_arguments(family: Family, counts: Sequence[int]) -> dict[str, Any]:
    """The argument with which a model of the family is built with so many blocks in each stage."""
    return {family.depth: tuple(counts) if "*" in family.blocks else counts[0]}


def width_arguments(family: Family, num_stages: int, width: int, num_heads: int) -> dict[str, Any]:
    """Arguments with which the last blocks of a model of the family have this width and so many heads.

    Raises: ModelError for a width that a model of several stages cannot end with.
    """
    if num_stages == 1:
        return {"embed_dim": width, "num_heads": num_heads}
    factor = 2 ** (num_stages - 1)
    if width % factor:
        raise ModelError(
            f"a {family.name} doubles its width from stage to stage, so that it ends with multiples of {factor}, not "
            f"with {width}; choose another width, or the method lift"
        )
    return {"embed_dim": width // factor, "num_heads": (*[1] * (num_stages - 1), num_heads)}


def classifiers_of(model: nn.Module) -> tuple[nn.Module, ...]:
    """What makes logits in a timm model or a lifted one: a layer, or two in a distilled model."""
    found: nn.Module | tuple[nn.Module, ...] = model.get_classifier()  # pyright: ignore[reportCallIssue]
    return found if isinstance(found, tuple) else (found,)


def drop_head(model: nn.Module) -> nn.Module:
    """Take away all that follows the last output of `forward_intermediates`.

    Raises: ModelError for a model that timm cannot cut.
    """
    if not hasattr(model, "prune_intermediate_layers") or not hasattr(model, "feature_info"):
        raise ModelError(
            f"{type(model).__name__} has no intermediate outputs in timm, so that its head cannot be replaced; choose "
            "a student such as deit_tiny_patch16_224, or another method"
        )
    model.prune_intermediate_layers([-1], prune_norm=True, prune_head=True)  # pyright: ignore[reportCallIssue]
    return model
