"""Caches of made-up features, by kdcache's own writer: for benchmarks, and tests that must know the answer."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdcache.cache.codecs import make_codec
from kdcache.cache.job import assemble_manifest
from kdcache.cache.manifest import ColumnFacts, Fingerprint, SourceFacts, TeacherFacts, ViewFacts, write_manifest
from kdcache.cache.paths import CachePaths
from kdcache.cache.record import Array
from kdcache.cache.sample import Sample
from kdcache.cache.writer import ShardWriter
from kdcache.views import VIEW_FIELDS, pixel_hash

_TAP = "blocks.-1/patch"


@dataclass(frozen=True, kw_only=True)
class SyntheticCache:
    """One column, one view an image.

    Args:
        num_records: Images.
        shape: (N, C).
        codec: Of the column.
        features: Image number to (N, C) float32.
        grid: Rows and columns of the tokens; empty for none.
        statistics: As in ExtractConfig.
        shard_samples: Images in a shard.
        label: Image number to class.
        image, view, replay: Image number to the bytes of a file and to the integers of its view, and both to pixels;
            None for a cache that refers to its images.
        view_size: S of the views, pixels.
    """

    num_records: int
    shape: tuple[int, ...]
    codec: str
    features: Callable[[int], Array]
    grid: tuple[int, ...] = ()
    statistics: str = "light"
    shard_samples: int = 500
    label: Callable[[int], int] = int
    image: Callable[[int], bytes] | None = None
    view: Callable[[int], Array] | None = None
    replay: Callable[[bytes, Array], Array] | None = None
    view_size: int = 224


def write_cache(synthetic: SyntheticCache, folder: Path) -> None:
    """Write it, manifest and all."""
    paths = CachePaths(folder)
    fingerprint = _fingerprint(synthetic)
    names: list[str] = []
    for first in range(0, synthetic.num_records, synthetic.shard_samples):
        names.append(f"train-{len(names):06d}")
        with ShardWriter(paths, fingerprint, names[-1]) as shard:
            for number in range(first, min(first + synthetic.shard_samples, synthetic.num_records)):
                _add(shard, synthetic, number, fingerprint.columns[0])
            shard.commit([])
    write_manifest(paths, assemble_manifest(paths, fingerprint, names))


def _add(shard: ShardWriter, synthetic: SyntheticCache, number: int, column: ColumnFacts) -> None:
    key = f"sample-{number:07d}"
    image = b"none" if synthetic.image is None else synthetic.image(number)
    view = np.zeros(len(VIEW_FIELDS), np.int32) if synthetic.view is None else synthetic.view(number)
    pixels = np.zeros((1, 1, 3), np.uint8) if synthetic.replay is None else synthetic.replay(image, view)
    sample = Sample(
        key=key,
        source_key=key,
        label=synthetic.label(number),
        source_sha256="00" * 32,
        size=(1, 1),
        mode="RGB",
        orientation=1,
        views=(tuple(int(each) for each in view),),
        pixel_hashes=(pixel_hash(pixels),),
    )
    shard.add_sample(sample, image, "jpg")
    shard.add_records([(key, 0)], {column.tap: synthetic.features(number)[None]})


def _fingerprint(synthetic: SyntheticCache) -> Fingerprint:
    stride = make_codec(synthetic.codec, {}).layout(synthetic.shape).stride_bytes
    column = ColumnFacts(
        name="features", tap=_TAP, kind="patch", codec=synthetic.codec, params={}, shape=list(synthetic.shape),
        grid=list(synthetic.grid), stride_bytes=stride,
    )  # fmt: skip
    return Fingerprint(
        format_version=1,
        split="train",
        order="source",
        images="reference" if synthetic.image is None else "embed",
        shard_samples=synthetic.shard_samples,
        batch_size=1,
        statistics=synthetic.statistics,
        source=SourceFacts(
            kind="folder", num_samples=synthetic.num_records, keys_sha256="", num_classes=synthetic.num_records,
            class_names=[],
        ),
        views=ViewFacts(
            recipe="rrc-flip", seed=0, num_views=1, size=synthetic.view_size, interpolation="bicubic",
            fields=list(VIEW_FIELDS), params={}, mean=[0.5] * 3, std=[0.5] * 3,
        ),
        teacher=TeacherFacts(
            name="noise", kwargs={}, pretrained_cfg={}, weights="random", weights_sha256="", precision="fp32",
            device="cpu", cpu_threads=1,
        ),
        columns=[column],
        versions={},
    )  # fmt: skip
