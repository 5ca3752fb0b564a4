"""kdcache: run a frozen vision teacher once, keep what it said, train any number of students from the record."""

import importlib
from typing import Any

__version__ = "0.1.0"

# Imported on first use, so that `import kdcache` and `kdcache --help` stay light.
_PUBLIC = {
    "Cache": "kdcache.cache",
    "CacheDataset": "kdcache.stream.dataset",
    "CacheIterable": "kdcache.stream.dataset",
    "CacheLoader": "kdcache.stream.loader",
    "StreamConfig": "kdcache.stream.loader",
    "build_student": "kdcache.models",
    "StudentSpec": "kdcache.models",
    "open_cache": "kdcache.cache",
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'kdcache' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
