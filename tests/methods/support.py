"""A batch of targets, and outputs of a student, for tests of terms and methods."""

import torch
from torch import Tensor, nn

from kdcache.cache import Cache
from kdcache.cache.cache_statistics import CacheStatistics
from kdcache.stream.batch import Batch
from kdcache.stream.config import StreamConfig
from kdcache.stream.loader import CacheLoader
from kdcache.terms.base import Inputs, Site, Term, TokenShape
from tests.conftest import GROUP


def one_batch(cache: Cache) -> Batch:
    """Eight views with every column."""
    config = StreamConfig(batch_size=8, num_threads=1)
    return next(iter(CacheLoader(cache, cache.columns, config))).clone()


def student_outputs(channels: int) -> tuple[Tensor, Tensor]:
    """Logits (8, 10) and tokens (8, 16, channels)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, 10, generator=generator), torch.randn(8, 16, channels, generator=generator)


def modules_of(term: Term, cache: Cache, columns: list[str], *shapes: TokenShape) -> nn.Module | None:
    """A term's modules on columns of the one group and a student of these shapes."""
    held = [cache.column(f"{GROUP}/{name}") for name in columns]
    return term.modules(Site(shapes, held, CacheStatistics(cache).of))


def value_of(term: Term, cache: Cache, columns: list[str], *tokens: Tensor, modules: nn.Module | None = None) -> Tensor:
    """A term's value on one batch, for tokens (8, N, C) of the student on a square grid.

    Its modules are made on the way unless they are given.
    """
    batch = one_batch(cache)
    patch = [tap.kind in ("patch", "change") for tap in term.needs().student]
    shapes = [
        TokenShape(each.shape[1], each.shape[2], (round(each.shape[1] ** 0.5),) * 2 if is_patch else None)
        for each, is_patch in zip(tokens, patch, strict=True)
    ]
    if modules is None:
        modules = modules_of(term, cache, columns, *shapes)
    targets = [batch.targets[f"{GROUP}/{name}"] for name in columns]
    return term(Inputs(student_outputs(1)[0], batch.labels, tokens, targets, batch.images), modules)
