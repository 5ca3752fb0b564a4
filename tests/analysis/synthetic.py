"""Caches whose ranks are known, because they were made of them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.synthetic_cache import SyntheticCache, write_cache
from kdcache.cache import Cache, open_cache

TOKENS, CHANNELS = (12, 20)
OWN_RANK, GLOBAL_RANK = 3, 9


def orthonormal(random: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    return np.linalg.qr(random.standard_normal((rows, columns)))[0]


def known_rank_image(number: int) -> np.ndarray:
    """(12, 20) of rank 3 with equal singular values, inside the same nine directions for every image."""
    common = orthonormal(np.random.default_rng(77), CHANNELS, GLOBAL_RANK)
    random = np.random.default_rng(number)
    own = common @ orthonormal(random, GLOBAL_RANK, OWN_RANK)
    return (orthonormal(random, TOKENS, OWN_RANK) @ own.T).astype(np.float32)


def feature_cache(
    folder: Path, features: Callable[[int], np.ndarray], count: int, *, codec: str = "fp32", statistics: str = "full"
) -> Cache:
    """A cache of one column, (3, 4) tokens of 20 channels."""
    synthetic = SyntheticCache(
        num_records=count,
        shape=(TOKENS, CHANNELS),
        codec=codec,
        features=features,
        grid=(3, 4),
        statistics=statistics,
        shard_samples=16,
    )
    write_cache(synthetic, folder)
    return open_cache(folder)
