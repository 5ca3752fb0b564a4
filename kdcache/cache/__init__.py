"""The contract on disk: plain tars, an index, a manifest. Imports numpy, h5py and msgspec, never torch."""

from kdcache.cache.cache import Cache, open_cache
from kdcache.cache.job import CacheJob
from kdcache.cache.manifest import Fingerprint, Manifest

__all__ = ["Cache", "CacheJob", "Fingerprint", "Manifest", "open_cache"]
