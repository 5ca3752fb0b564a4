"""kdcache itself as one of the loaders of the streaming comparison, with either way of reading."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import kdcache
from benchmarks.peers.base import Loader, Workload
from kdcache.cache import open_cache
from kdcache.cache.codecs import make_codec
from kdcache.cache.job import assemble_manifest
from kdcache.cache.manifest import ColumnFacts, Fingerprint, SourceFacts, TeacherFacts, ViewFacts, write_manifest
from kdcache.cache.paths import CachePaths
from kdcache.cache.sample import Sample
from kdcache.cache.writer import ShardWriter
from kdcache.stream.cached import CacheLoader
from kdcache.stream.files import Access, describe
from kdcache.stream.loader import StreamConfig
from kdcache.views import VIEW_FIELDS, pixel_hash

_SHARD_SAMPLES = 500
_TAP = "blocks.-1/patch"


class Kdcache(Loader):
    """A kdcache cache.

    Args:
        access: How batches are read.
    """

    files = "kdcache"
    workloads = ("A", "B", "C")

    def __init__(self, access: Access) -> None:
        self.name = "kdcache" if access == "map" else "kdcache without extension"
        self._access: Access = access
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
        write_cache(workload, folder)

    def open(self, workload: Workload, folder: Path, *, shuffle: bool) -> None:
        """Open the cache."""
        cache = open_cache(folder)
        self._loader = CacheLoader(cache, cache.manifest.fingerprint.columns, self.config(workload, shuffle=shuffle))

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


def write_cache(workload: Workload, folder: Path) -> None:
    """Write a workload as a cache."""
    paths = CachePaths(folder)
    fingerprint = _fingerprint(workload)
    names: list[str] = []
    for first in range(0, workload.num_records, _SHARD_SAMPLES):
        names.append(f"train-{len(names):06d}")
        with ShardWriter(paths, fingerprint, names[-1]) as shard:
            for number in range(first, min(first + _SHARD_SAMPLES, workload.num_records)):
                _add(shard, workload, number, fingerprint.columns[0])
            shard.commit([])
    write_manifest(paths, assemble_manifest(paths, fingerprint, names))


def _add(shard: ShardWriter, workload: Workload, number: int, column: ColumnFacts) -> None:
    key = f"sample-{number:07d}"
    image = workload.image(number) if workload.images else b"none"
    view = workload.view(number) if workload.images else np.zeros(len(VIEW_FIELDS), np.int32)
    pixels = workload.replay(image, view) if workload.replay is not None else np.zeros((1, 1, 3), np.uint8)
    sample = Sample(
        key=key,
        source_key=key,
        label=workload.label(number),
        source_sha256="00" * 32,
        size=(1, 1),
        mode="RGB",
        orientation=1,
        views=(tuple(int(each) for each in view),),
        pixel_hashes=(pixel_hash(pixels),),
    )
    shard.add_sample(sample, image, "jpg")
    packed = {name: values[None] for name, values in workload.record(number).items()}
    decoded = column.make_codec().decode(packed, tuple(column.shape))
    shard.add_records([(key, 0)], {column.tap: decoded})


def _fingerprint(workload: Workload) -> Fingerprint:
    codec = "int8" if "scale" in workload.fields else "fp16"
    shape = workload.fields["values"][1]
    stride = make_codec(codec, {}).layout(shape).stride_bytes
    column = ColumnFacts(
        name="features", tap=_TAP, kind="patch", codec=codec, params={}, shape=list(shape), grid=[], stride_bytes=stride
    )
    return Fingerprint(
        format_version=1,
        split="train",
        order="source",
        images="embed" if workload.images else "reference",
        shard_samples=_SHARD_SAMPLES,
        batch_size=1,
        statistics="light",
        source=SourceFacts(
            kind="folder", num_samples=workload.num_records, keys_sha256="", num_classes=workload.num_records,
            class_names=[],
        ),
        views=ViewFacts(
            recipe="rrc-flip", seed=0, num_views=1, size=224, interpolation="bicubic", fields=list(VIEW_FIELDS),
            params={}, mean=[0.5] * 3, std=[0.5] * 3,
        ),
        teacher=TeacherFacts(
            name="noise", kwargs={}, pretrained_cfg={}, weights="random", weights_sha256="", precision="fp32",
            device="cpu", cpu_threads=1,
        ),
        columns=[column],
        versions={},
    )  # fmt: skip
