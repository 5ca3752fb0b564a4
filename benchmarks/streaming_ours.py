"""kdcache itself as one of the loaders of the streaming comparison, in either read mode."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kdcache
from benchmarks.peers.base import Loader, Workload
from benchmarks.synthetic_cache import SyntheticCache, write_cache
from kdcache.cache import open_cache
from kdcache.cache.codecs import make_codec
from kdcache.cache.record import Array
from kdcache.reading.files import ReadMode, describe
from kdcache.stream.config import StreamConfig
from kdcache.stream.loader import CacheLoader


class Kdcache(Loader):
    """A kdcache cache.

    Args:
        access: How batches are read.
    """

    files = "kdcache"
    workloads = ("A", "B", "C")

    def __init__(self, access: ReadMode) -> None:
        self.name = "kdcache" if access == "map" else "kdcache without extension"
        self._access: ReadMode = access
        self._loader: CacheLoader | None = None

    def versions(self) -> dict[str, str]:
        """Ours."""
        return {"kdcache": kdcache.__version__}

    def config(self, workload: Workload, *, shuffle: bool) -> StreamConfig:
        """How it streams: the defaults, and the threads every loader may use."""
        return StreamConfig(
            batch_size=workload.batch_size,
            shuffle=shuffle,
            num_threads=workload.num_threads,
            images="pixels" if workload.images else "none",
            access=self._access,
        )

    def settings(self, workload: Workload) -> dict[str, Any]:
        """The stream's configuration."""
        return {**vars(self.config(workload, shuffle=True)), "gather": describe(self._access)}

    def write(self, workload: Workload, folder: Path) -> None:
        """A cache of one column with one view per image."""
        codec = "int8" if "scale" in workload.fields else "fp16"
        shape = workload.fields["values"][1]
        decoder = make_codec(codec, {})

        def features(number: int) -> Array:
            packed = {name: values[None] for name, values in workload.record(number).items()}
            return decoder.decode(packed, shape)[0]

        has_images = workload.images
        synthetic = SyntheticCache(
            num_records=workload.num_records,
            shape=shape,
            codec=codec,
            features=features,
            label=workload.label,
            image=workload.image if has_images else None,
            view=workload.view if has_images else None,
            replay=workload.replay,
        )
        write_cache(synthetic, folder)

    def open(self, workload: Workload, folder: Path, *, shuffle: bool) -> None:
        """Open the cache."""
        cache = open_cache(folder)
        self._loader = CacheLoader(cache, cache.columns, self.config(workload, shuffle=shuffle))

    def epoch(self, epoch: int) -> Iterator[Mapping[str, Any]]:
        """Batches; the loader counts the epochs itself."""
        assert self._loader is not None
        for batch in self._loader:
            fields = next(iter(batch.targets.values())).fields
            extra = {} if batch.pixels is None else {"pixels": batch.pixels}
            yield {**fields, "label": batch.labels, **extra}

    def close(self) -> None:
        """Forget the cache."""
        self._loader = None
