"""Targets and tokens for tests of methods."""

import torch
from torch import Tensor

from kdcache.cache import Cache
from kdcache.methods import Targets
from kdcache.stream.batch import Batch
from kdcache.stream.config import StreamConfig
from kdcache.stream.loader import CacheLoader
from tests.conftest import GROUP


def one_batch(cache: Cache) -> Batch:
    """Eight views with every column."""
    config = StreamConfig(batch_size=8, num_threads=1)
    return next(iter(CacheLoader(cache, cache.columns, config))).clone()


def targets_of(batch: Batch, *, logits: str | None = None, features: str | None = None) -> Targets:
    """The targets of some columns of the one group by their own names."""
    return Targets(
        logits=batch.targets[f"{GROUP}/{logits}"] if logits else None,
        features=batch.targets[f"{GROUP}/{features}"] if features else None,
    )


def student_says(channels: int) -> tuple[Tensor, Tensor]:
    """Logits (8, 10) and tokens (8, 16, channels)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, 10, generator=generator), torch.randn(8, 16, channels, generator=generator)
