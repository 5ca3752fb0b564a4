"""Streaming a cache: order, readers, loaders, datasets."""

from kdcache.stream.batch import Batch
from kdcache.stream.dataset import CacheDataset, CacheIterable
from kdcache.stream.loader import CacheLoader, StreamConfig
from kdcache.stream.targets import PackedTargets

__all__ = ["Batch", "CacheDataset", "CacheIterable", "CacheLoader", "PackedTargets", "StreamConfig"]
