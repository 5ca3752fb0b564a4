"""WeCoLoRA (arXiv:2404.09326): every r-th block of a trained model, frozen, with low-rank adapters."""

import re
from dataclasses import dataclass
from typing import Any, Literal, final, get_args

from torch import nn

from kdcache.errors import ModelError
from kdcache.students.adapters import AdaptedLinear
from kdcache.students.change import Build, Change, Merged, Unchanged
from kdcache.students.families import Family, block_lists, depth_arguments, family_of

Adapters = Literal["enhanced", "lora", "none"]
_QKV_PARTS = 3
_RANK = 128
# Which projections of the fused qkv layer plain LoRA adapts: queries and values.
_LORA_PARTS = (0, 2)
_ENHANCED = ("proj", "fc1", "fc2")


@final
@dataclass(frozen=True, kw_only=True)
class WeightCopy(Change):
    """A copy of a trained model with every r-th block, and low-rank adapters as all that is trained.

    The student's name is that of the model whose weights it copies. Merged after training, it is a plain timm model of
    fewer blocks.

    Args:
        every: r; blocks 0, r, 2r, ... of each stage are kept.
        adapters: ``enhanced`` (queries, keys, values, attention's projection and both layers of the MLP), ``lora``
            (queries and values), or ``none``: the copied weights themselves are trained. With adapters the copied
            weights are frozen; only the classifier is trained besides.
        rank: Of each adapter.

    Raises: ValueError for values out of range, or a rank where there are no adapters.
    """

    name: Literal["weight-copy"] = "weight-copy"
    every: int = 2
    adapters: Adapters = "enhanced"
    rank: int = _RANK

    def __post_init__(self) -> None:
        if self.every < 1 or self.rank < 1:
            raise ValueError(f"every and rank must be at least 1, got {self.every}, {self.rank}")
        if self.adapters == "none" and self.rank != _RANK:
            raise ValueError(f"rank={self.rank} would be ignored: there are no adapters")
        if self.adapters not in get_args(Adapters):
            raise ValueError(f"adapters must be one of {', '.join(get_args(Adapters))}, got {self.adapters!r}")

    @property
    def needs_weights(self) -> bool:
        """See Change."""
        return True

    def apply(self, build: Build) -> nn.Module:
        """See Change."""
        full = build()
        family = family_of(full, change=self.name)
        lists = block_lists(full, family)
        counts = [len(range(0, len(blocks), self.every)) for blocks in lists.values()]  # pyright: ignore
        model = build(**depth_arguments(family, counts))
        _copy_weights(full, model, list(lists), self.every)
        if self.adapters != "none":
            _add_adapters(model, family, rank=self.rank, enhanced=self.adapters == "enhanced")
        return model

    def merge(self, model: nn.Module) -> Merged:
        """See Change. The adapters are added to the weights, in place."""
        family = family_of(model, change=self.name)
        counts = [len(blocks) for blocks in block_lists(model, family).values()]  # pyright: ignore
        for name, module in list(model.named_modules()):
            if isinstance(module, AdaptedLinear):
                model.set_submodule(name, module.merged())
        return Merged(model.requires_grad_(True), depth_arguments(family, counts), Unchanged())


def _copy_weights(full: nn.Module, model: nn.Module, lists: list[str], every: int) -> None:
    """Fill a model of fewer blocks: block i of each list comes from block i * every, all else from its namesake."""
    pattern = re.compile(rf"^({'|'.join(map(re.escape, lists))})\.(\d+)\.")
    have = full.state_dict()

    def source(name: str) -> str:
        return pattern.sub(lambda match: f"{match[1]}.{int(match[2]) * every}.", name)

    model.load_state_dict({name: have[source(name)] for name in model.state_dict()})


def _add_adapters(model: nn.Module, family: Family, *, rank: int, enhanced: bool) -> None:
    model.requires_grad_(False)
    classifier: Any = model.get_classifier() if hasattr(model, "get_classifier") else None  # pyright: ignore
    for head in classifier if isinstance(classifier, tuple) else (classifier,):
        if isinstance(head, nn.Module):
            head.requires_grad_(True)
    count = 0
    for blocks in block_lists(model, family).values():
        for name, module in list(blocks.named_modules()):
            kind = name.rpartition(".")[2]
            if not isinstance(module, nn.Linear) or ((kind not in _ENHANCED or not enhanced) and kind != "qkv"):
                continue
            is_qkv = kind == "qkv"
            parts = (tuple(range(_QKV_PARTS)) if enhanced else _LORA_PARTS) if is_qkv else (0,)
            adapted = AdaptedLinear(module, rank=rank, parts=parts, num_parts=_QKV_PARTS if is_qkv else 1)
            blocks.set_submodule(name, adapted)
            count += 1
    if not count:
        raise ModelError(
            f"the blocks of a {family.name} have no linear layers qkv, proj, fc1 or fc2 for adapters; set "
            "adapters=none, or choose a ViT, CaiT or Swin student"
        )
