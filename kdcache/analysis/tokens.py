"""Where tokens come from: read batch by batch, as often as needed."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from torch import Tensor

from kdcache.analysis.result import SourceFacts
from kdcache.cache.record import Array
from kdcache.cache.statistics import TokenStatistics

# Of each layer statistics over all its tokens, and squared singular values (images, min(N, C)) of some images.
Stored = tuple[list[TokenStatistics], list[Array]]


def evenly_spaced(total: int, count: int) -> Array:
    """Which `count` of `total` things to take, all of them if there are fewer; int64."""
    taken = min(count, total)
    return np.arange(taken) * total // max(1, taken)


@dataclass(frozen=True, kw_only=True)
class LayerFacts:
    """One tap that is read; see `result.Layer`."""

    name: str
    block: int
    num_tokens: int
    num_channels: int
    grid: list[int]
    column: str = ""
    codec: str = ""
    fidelity: dict[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """A few images beside their tokens in the last layer.

    Attributes:
        keys: Their names.
        pixels: (R, S, S, 3) uint8; None where the images are not at hand.
        features: (R, rows, columns, C); None where the tokens are on no grid.
    """

    keys: list[str]
    pixels: Array | None
    features: Array | None


class TokenSource(ABC):
    """Tokens of some images at some taps.

    Attributes:
        layers: The taps, by depth.
        facts: What this is.
        settings: What else decides the tokens, for the record.
    """

    layers: list[LayerFacts]
    facts: SourceFacts
    settings: Mapping[str, Any] = MappingProxyType({})

    @abstractmethod
    def batches(self) -> Iterator[list[Tensor]]:
        """All tokens, in batches of images: for each layer (B, N, C) float32 on the device. May be called again."""

    @abstractmethod
    def pictures(self, count: int) -> Pictures:
        """Some of the images, evenly spaced."""

    def stored(self) -> Stored | None:
        """What is known without reading tokens; None where nothing is stored."""
        return None
