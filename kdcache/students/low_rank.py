"""Linear layers as two of low rank: factors from an SVD, and ranks found under a budget of parameters.

Source: arXiv:2412.16719 (factors and searches), arXiv:2512.00792 (one rank for all, swept).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, final, get_args

from torch import nn

from kdcache.errors import ModelError
from kdcache.models.factored import FactoredLinear, FactorInit
from kdcache.students.change import Build, Change
from kdcache.students.families import block_lists, family_of

Search = Literal["bottom", "top", "uniform"]
Sides = tuple[int, int]
_UNIFORM_STEP = 8
# Of the width 4,096, arXiv:2412.16719 tries the ranks from 1,024 in steps of 256.
_WIDTHS_TO_MIN_RANK = 4
_WIDTHS_TO_STEP = 16
# CaiT mixes its attention heads by linear layers (heads, heads), which read no tokens.
_BETWEEN_HEADS = ("proj_l", "proj_w")


@final
@dataclass(frozen=True, kw_only=True)
class LowRank(Change):
    """The linear layers of the blocks as two, C_in to r to C_out; embeddings, norms and the head stay dense.

    A layer stays dense too where two factors would hold no fewer parameters than it does: from
    r = C_in C_out / (C_in + C_out), for a square layer half its width. No rank makes a model larger.

    Args:
        rank: r of every layer that is factored; None to search ranks for `budget`.
        budget: Fraction of the parameters of the blocks' linear layers to take away; None where
            `rank` is given. The published one is of the whole model, of which these are all but a
            few per cent (ViT-B: 98 %). A rank must not depend on the rest, which another number of
            classes, image size or number of input channels changes.
        search: With `budget`: ``bottom`` goes through the blocks from the first, and within a block from high rank to
            low, until the budget is met; ``top`` from the last; ``uniform`` gives all layers the same ratio, with
            ranks rounded up to multiples of 8.
        min_rank: Smallest rank that ``bottom`` and ``top`` try; None for a quarter of each block's width.
        rank_step: Distance between those ranks; None for a sixteenth of the width. Both defaults are
            at least 1; at width 4,096 they are the published values.
        init: ``svd`` of the weights that the run starts from (the best approximation of each), or ``random``.

    Raises: ValueError for values out of range, or settings of a search that is not made.
    """

    name: Literal["low-rank"] = "low-rank"
    rank: int | None = None
    budget: float | None = None
    search: Search = "bottom"
    min_rank: int | None = None
    rank_step: int | None = None
    init: FactorInit = "svd"

    def __post_init__(self) -> None:
        if (self.rank is None) == (self.budget is None):
            raise ValueError(f"give rank or budget, one of them, got {self.rank} and {self.budget}")
        if any(value is not None and value < 1 for value in (self.rank, self.min_rank, self.rank_step)):
            raise ValueError("rank, min_rank and rank_step must be at least 1")
        if self.budget is not None and not 0 < self.budget < 1:
            raise ValueError(f"budget must be between 0 and 1, got {self.budget}")
        for field, kind in (("search", Search), ("init", FactorInit)):
            if getattr(self, field) not in get_args(kind):
                raise ValueError(f"{field} must be one of {', '.join(get_args(kind))}, got {getattr(self, field)!r}")
        for field, default in self._unused().items():
            if getattr(self, field) != default:
                raise ValueError(f"{field}={getattr(self, field)} would be ignored: no search uses it")

    def _unused(self) -> dict[str, str | None]:
        """Settings that no search reads, with their defaults."""
        steps: dict[str, str | None] = {"min_rank": None, "rank_step": None}
        if self.budget is None:
            return {"search": "bottom", **steps}
        return steps if self.search == "uniform" else {}

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
            model.set_submodule(name, FactoredLinear(layer, rank, init=self.init))
        return model

    def ranks(self, model: nn.Module) -> dict[str, int]:
        """The rank of each layer that is replaced, by name; the others stay dense.

        Raises: ModelError for a model without linear layers in its blocks, a rank at which none is
            replaced, or a budget that cannot be met.
        """
        blocks = _linear_layers(model)
        layers = {name: sides for block in blocks for name, sides in block.items()}
        if self.rank is not None:
            ranks = _that_save(layers, dict.fromkeys(layers, self.rank))
            if not ranks:
                bound = max(math.ceil(math.prod(sides) / sum(sides)) for sides in layers.values())
                raise ModelError(
                    f"at rank={self.rank} two factors hold no fewer parameters than any layer in the blocks of this "
                    f"model; choose a rank below {bound}, or the model as it is"
                )
            return ranks
        assert self.budget is not None, "one of them is given"
        total = sum(map(math.prod, layers.values()))
        best = 0
        for ranks in _uniform(layers) if self.search == "uniform" else self._stepwise(blocks):
            saved = sum(_saved(layers[name], rank) for name, rank in ranks.items())
            if saved >= self.budget * total:
                return ranks
            best = max(best, saved)
        raise ModelError(
            f"low-rank ({self.search}) takes away at most {best / total:.1%} of the parameters of the blocks' linear "
            f"layers, budget={self.budget:g} wants more; lower the budget"
            + ("" if self.search == "uniform" else " or min_rank")
        )

    def _stepwise(self, blocks: list[dict[str, Sides]]) -> Iterator[dict[str, int]]:
        """One block more, or one step lower in it, at a time."""
        ranks: dict[str, int] = {}
        for block in blocks if self.search == "bottom" else reversed(blocks):
            width = max(min(sides) for sides in block.values())
            lowest = self.min_rank or max(1, width // _WIDTHS_TO_MIN_RANK)
            step = self.rank_step or max(1, width // _WIDTHS_TO_STEP)
            for rank in reversed(range(lowest, width, step)):
                ranks |= _that_save(block, dict.fromkeys(block, rank))
                yield dict(ranks)


def _linear_layers(model: nn.Module) -> list[dict[str, Sides]]:
    """(C_in, C_out) of the linear layers of each block, by full name.

    Raises: ModelError where there are none.
    """
    family = family_of(model, change="low-rank")
    found: list[dict[str, Sides]] = []
    for name, blocks in block_lists(model, family).items():
        for number, block in enumerate(blocks):  # pyright: ignore[reportArgumentType]
            layers = {
                f"{name}.{number}.{path}": (layer.in_features, layer.out_features)
                for path, layer in block.named_modules()
                if isinstance(layer, nn.Linear) and path.rpartition(".")[2] not in _BETWEEN_HEADS
            }
            found += [layers] if layers else []
    if not found:
        raise ModelError(
            f"the blocks of this {family.name} have no linear layers to factor; choose a ViT, CaiT, Swin or ConvNeXt "
            "student"
        )
    return found


def _saved(sides: Sides, rank: int) -> int:
    return math.prod(sides) - rank * sum(sides)


def _that_save(layers: dict[str, Sides], ranks: dict[str, int]) -> dict[str, int]:
    """The ranks at which two factors hold fewer parameters than their layer."""
    return {name: rank for name, rank in ranks.items() if _saved(layers[name], rank) > 0}


def _uniform(layers: dict[str, Sides]) -> Iterator[dict[str, int]]:
    """Ever smaller fractions of all layers' full ranks."""
    largest = max(min(sides) for sides in layers.values())
    for numerator in reversed(range(1, largest)):
        steps = {name: math.ceil(min(sides) * numerator / largest / _UNIFORM_STEP) for name, sides in layers.items()}
        yield _that_save(layers, {name: count * _UNIFORM_STEP for name, count in steps.items()})
