"""The contract on disk: plain tars, indexes, manifests. Imports numpy, h5py and msgspec, never torch."""

from kdcache.cache.base import BaseFingerprint, BaseManifest
from kdcache.cache.cache import Cache, open_cache
from kdcache.cache.column import Column
from kdcache.cache.extraction import Extraction
from kdcache.cache.group import Group, GroupFingerprint, GroupManifest

__all__ = [
    "BaseFingerprint",
    "BaseManifest",
    "Cache",
    "Column",
    "Extraction",
    "Group",
    "GroupFingerprint",
    "GroupManifest",
    "open_cache",
]
