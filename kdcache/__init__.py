"""kdcache: run a frozen vision teacher once, keep its outputs, train any number of students."""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "AnalyzeConfig",
    "Cache",
    "CacheDataset",
    "CacheIterable",
    "CacheLoader",
    "ExtractConfig",
    "RunConfig",
    "StreamConfig",
    "StudentSpec",
    "analyze",
    "build_student",
    "export_student",
    "extract",
    "open_cache",
    "prepare",
    "save_student",
    "train",
]

if TYPE_CHECKING:
    from kdcache.analysis.run import AnalyzeConfig, analyze
    from kdcache.cache import Cache, open_cache
    from kdcache.export.write import export_student
    from kdcache.stream.config import StreamConfig
    from kdcache.stream.dataset import CacheDataset, CacheIterable
    from kdcache.stream.loader import CacheLoader
    from kdcache.students.student import StudentSpec, build_student
    from kdcache.teacher.config import ExtractConfig
    from kdcache.teacher.extract import extract
    from kdcache.train.config import RunConfig
    from kdcache.train.loop import train
    from kdcache.train.origin import save_student
    from kdcache.train.setup import prepare
else:
    # Imported on first use, so that `import kdcache` and `kdcache --help` stay light.
    _PUBLIC = {
        "AnalyzeConfig": "kdcache.analysis.run",
        "Cache": "kdcache.cache",
        "CacheDataset": "kdcache.stream.dataset",
        "CacheIterable": "kdcache.stream.dataset",
        "CacheLoader": "kdcache.stream.loader",
        "ExtractConfig": "kdcache.teacher.config",
        "RunConfig": "kdcache.train.config",
        "StreamConfig": "kdcache.stream.config",
        "StudentSpec": "kdcache.students.student",
        "analyze": "kdcache.analysis.run",
        "build_student": "kdcache.students.student",
        "export_student": "kdcache.export.write",
        "extract": "kdcache.teacher.extract",
        "open_cache": "kdcache.cache",
        "prepare": "kdcache.train.setup",
        "save_student": "kdcache.train.origin",
        "train": "kdcache.train",
    }

    def __getattr__(name):
        if name not in _PUBLIC:
            raise AttributeError(f"module 'kdcache' has no attribute {name!r}")
        found = getattr(importlib.import_module(_PUBLIC[name]), name)
        # The import has set `train` to the package of that name, which can be called: keep it.
        return globals().setdefault(name, found)

    def __dir__():
        return sorted({*globals(), *__all__})
