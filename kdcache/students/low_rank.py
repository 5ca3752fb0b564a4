"""Linear layers as two of low rank: factors from an SVD, and ranks found under a budget of parameters.

Source: arXiv:2412.16719 (factors and searches), arXiv:2512.00792 (one rank for all, swept).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, final, get_args

import torch
from torch import Tensor, nn

from kdcache.errors import ModelError
from kdcache.students.change import Build, Change
from kdcache.students.families import block_lists, family_of

Search = Literal["bottom", "top", "uniform"]
FactorInit = Literal["svd", "random"]
_UNIFORM_STEP = 8
_STEP = 16


@final
@dataclass(frozen=True, kw_only=True)
class LowRank(Change):
    """Every linear layer of the blocks as two, C_in to r to C_out; embeddings, norms and the head stay dense.

    Args:
        rank: r of every layer, at most the smaller of its sides; None to search ranks for `budget`.
        budget: Fraction of the model's parameters to take away; None where `rank` is given.
        search: With `budget`: ``bottom`` goes through the blocks from the first, and within a block from high rank to
            low, until the budget is met; ``top`` from the last; ``uniform`` gives all layers the same ratio, with
            ranks rounded up to multiples of 8.
        min_rank: Smallest rank of a search.
        rank_step: Distance between the ranks that ``bottom`` and ``top`` try.
        init: ``svd`` of the weights that the run starts from (the best approximation of each), or ``random``.

    Raises: ValueError for values out of range, or settings of a search that is not made.
    """

    name: Literal["low-rank"] = "low-rank"
    rank: int | None = None
    budget: float | None = None
    search: Search = "bottom"
    min_rank: int = _STEP
    rank_step: int = _STEP
    init: FactorInit = "svd"

    def __post_init__(self) -> None:
        if (self.rank is None) == (self.budget is None):
            raise ValueError("give rank or budget, one of them")
        if min(self.min_rank, self.rank_step, 1 if self.rank is None else self.rank) < 1:
            raise ValueError("rank, min_rank and rank_step must be at least 1")
        if self.budget is not None and not 0 < self.budget < 1:
            raise ValueError(f"budget must be between 0 and 1, got {self.budget}")
        settings = {"search": "bottom"} if self.budget is None else {}
        if self.budget is None or self.search == "uniform":
            settings |= {"min_rank": _STEP, "rank_step": _STEP}
        for field, default in settings.items():
            if getattr(self, field) != default:
                raise ValueError(f"{field}={getattr(self, field)} would be ignored: no search uses it")
        for field, kind in (("search", Search), ("init", FactorInit)):
            if getattr(self, field) not in get_args(kind):
                raise ValueError(f"{field} must be one of {', '.join(get_args(kind))}, got {getattr(self, field)!r}")

    @property
    def needs_weights(self) -> bool:
        """See Change."""
        return self.init == "svd"

    def without_weights(self) -> Change:
        """See Change: no decomposition."""
        return replace(self, init="random")

    def apply(self, build: Build) -> nn.Module:
        """See Change."""
        model = build()
        for name, rank in self.ranks(model).items():
            layer = model.get_submodule(name)
            assert isinstance(layer, nn.Linear), "ranks names linear layers"
            model.set_submodule(name, factored(layer, rank, init=self.init))
        return model

    def ranks(self, model: nn.Module) -> dict[str, int]:
        """The rank of each layer that is replaced, by name; the others stay dense.

        Raises: ModelError for a model without linear layers in its blocks, or a budget that cannot be met.
        """
        blocks = _linear_layers(model)
        if self.rank is not None:
            return {name: min(self.rank, *sides) for block in blocks for name, sides in block.items()}
        assert self.budget is not None, "one of them is given"
        wanted = self.budget * sum(parameter.numel() for parameter in model.parameters())
        sides = {name: each for block in blocks for name, each in block.items()}
        tried = _uniform(sides) if self.search == "uniform" else self._stepwise(blocks)
        best = 0
        for ranks in tried:
            saved = sum(_saved(sides[name], rank) for name, rank in ranks.items())
            if saved >= wanted:
                return ranks
            best = max(best, saved)
        raise ModelError(
            f"low-rank ({self.search}) takes away at most {best / wanted * self.budget:.1%} of the parameters, "
            f"budget={self.budget:g} wants more; lower the budget or min_rank"
        )

    def _stepwise(self, blocks: list[dict[str, tuple[int, int]]]) -> Iterator[dict[str, int]]:
        """One block more, or one step lower in it, at a time."""
        ranks: dict[str, int] = {}
        for block in blocks if self.search == "bottom" else reversed(blocks):
            largest = max(min(sides) for sides in block.values())
            for rank in reversed(range(self.min_rank, largest, self.rank_step)):
                ranks |= {name: rank for name, sides in block.items() if _saved(sides, rank) > 0}
                yield dict(ranks)


def factored(layer: nn.Linear, rank: int, *, init: FactorInit = "svd") -> nn.Sequential:
    """Two linear layers in place of one: in to rank without bias, rank to out with the layer's own bias.

    Args:
        layer: The dense layer, W of (C_out, C_in).
        rank: r.
        init: ``svd``: W = U S V^T gives S_r^½ V_r^T and U_r S_r^½, computed in fp32; ``random``: torch's own.
    """
    has_bias = layer.bias is not None
    placed = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    first = nn.Linear(layer.in_features, rank, bias=False, **placed)
    second = nn.Linear(rank, layer.out_features, bias=has_bias, **placed)
    with torch.no_grad():
        if init == "svd":
            left, values, right = torch.linalg.svd(layer.weight.float(), full_matrices=False)
            root: Tensor = values[:rank].sqrt()
            first.weight.copy_(root[:, None] * right[:rank])
            second.weight.copy_(left[:, :rank] * root)
        if has_bias:
            second.bias.copy_(layer.bias)
    return nn.Sequential(first, second)


def _linear_layers(model: nn.Module) -> list[dict[str, tuple[int, int]]]:
    """(C_in, C_out) of the linear layers of each block, by full name.

    Raises: ModelError where there are none.
    """
    family = family_of(model, change="low-rank")
    found: list[dict[str, tuple[int, int]]] = []
    for name, blocks in block_lists(model, family).items():
        for number, block in enumerate(blocks):  # pyright: ignore[reportArgumentType]
            layers = {
                f"{name}.{number}.{path}": (layer.in_features, layer.out_features)
                for path, layer in block.named_modules()
                if isinstance(layer, nn.Linear)
            }
            found += [layers] if layers else []
    if not found:
        raise ModelError(
            f"the blocks of this {family.name} have no linear layers to factor; choose a ViT, CaiT, Swin or ConvNeXt "
            "student"
        )
    return found


def _saved(sides: tuple[int, int], rank: int) -> int:
    return math.prod(sides) - rank * sum(sides)


def _uniform(layers: dict[str, tuple[int, int]]) -> Iterator[dict[str, int]]:
    """Ever smaller fractions of all layers' full ranks."""
    largest = max(min(sides) for sides in layers.values())
    for numerator in reversed(range(1, largest)):
        ranks = {
            name: math.ceil(min(sides) * numerator / largest / _UNIFORM_STEP) * _UNIFORM_STEP
            for name, sides in layers.items()
        }
        yield {
            name: rank for name, rank in ranks.items() if rank < min(layers[name]) and _saved(layers[name], rank) > 0
        }
