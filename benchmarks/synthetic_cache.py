"""Caches of made-up features, by kdcache's own writer: for benchmarks, and tests that must know the answer."""

import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdcache.cache.assembly import assemble_base, assemble_group
from kdcache.cache.base import BaseFingerprint, planned_shards
from kdcache.cache.codecs import make_codec
from kdcache.cache.facts import ColumnFacts, SourceFacts, TeacherFacts, ViewFacts, pixel_column
from kdcache.cache.group import GroupFingerprint
from kdcache.cache.group_writer import GroupShardWriter
from kdcache.cache.keys import keys_digest, labels_digest
from kdcache.cache.manifest import FORMAT_VERSION, fingerprint_digest, write_manifest
from kdcache.cache.paths import PIXELS, CachePaths
from kdcache.cache.record import Array
from kdcache.cache.sample import Sample
from kdcache.cache.writer import BaseShardWriter
from kdcache.images import decode_pixels, encode_jpeg
from kdcache.views import VIEW_FIELDS, pixel_hash

GROUP = "noise"
_TAP = "blocks.0/patch"
_JPEG_QUALITY = 95
NORMALIZATION = [0.5] * 3  # mean and standard deviation of the views


@dataclass(frozen=True, kw_only=True)
class SyntheticCache:
    """One group of one column, one view an image.

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
        pixels: ``replay`` stores none, ``raw`` and ``jpeg`` (quality 95) a group of them.
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
    pixels: str = "replay"

    @property
    def jpeg_quality(self) -> int:
        """Of stored JPEG; 0 for none."""
        return _JPEG_QUALITY if self.pixels == "jpeg" else 0


def write_cache(synthetic: SyntheticCache, folder: Path) -> None:
    """Write it, manifests and all."""
    paths = CachePaths(folder)
    base = _base_fingerprint(synthetic)
    groups = {GROUP: _group_fingerprint(synthetic, base)}
    if synthetic.pixels != "replay":
        groups[PIXELS] = _pixels_fingerprint(synthetic, base)
    shards = planned_shards(base)
    for shard in shards:
        with ExitStack() as stack:
            images = stack.enter_context(BaseShardWriter(paths, base, shard.name))
            writers = {
                name: stack.enter_context(GroupShardWriter(paths.group(name), group, base, shard.name))
                for name, group in groups.items()
            }
            for number in range(shard.first, shard.first + shard.num_samples):
                key = _key(number)
                pixels, jpegs = _add_image(images, synthetic, number, key)
                writers[GROUP].add_records([(key, 0)], {_TAP: synthetic.features(number)[None]})
                if PIXELS in writers:
                    writers[PIXELS].add_pixels([(key, 0)], pixels[None], jpegs)
            images.commit([])
            for writer in writers.values():
                writer.commit()
    names = [shard.name for shard in shards]
    manifest = assemble_base(paths, base, names)
    digest = write_manifest(paths, manifest)
    for name, group in groups.items():
        own = paths.group(name)
        write_manifest(own, assemble_group(own, group, manifest, digest))


def _key(number: int) -> str:
    return f"sample-{number:07d}"


def _add_image(
    shard: BaseShardWriter, synthetic: SyntheticCache, number: int, key: str
) -> tuple[Array, list[bytes] | None]:
    image = b"none" if synthetic.image is None else synthetic.image(number)
    view = np.zeros(len(VIEW_FIELDS), np.int32) if synthetic.view is None else synthetic.view(number)
    pixels = np.zeros((1, 1, 3), np.uint8) if synthetic.replay is None else synthetic.replay(image, view)
    jpegs = None
    if synthetic.jpeg_quality:
        jpegs = [encode_jpeg(pixels, synthetic.jpeg_quality)]
        pixels = decode_pixels(jpegs[0])
    sample = Sample(
        key=key,
        source_key=key,
        label=synthetic.label(number),
        source_sha256=hashlib.sha256(image).hexdigest(),
        size=(1, 1),
        mode="RGB",
        orientation=1,
        views=(tuple(int(each) for each in view),),
        pixel_hashes=(pixel_hash(pixels),),
    )
    shard.add_sample(sample, image, "jpg")
    return pixels, jpegs


def _base_fingerprint(synthetic: SyntheticCache) -> BaseFingerprint:
    count = synthetic.num_records
    return BaseFingerprint(
        format_version=FORMAT_VERSION,
        split="train",
        order="source",
        images="reference" if synthetic.image is None else "embed",
        shard_samples=synthetic.shard_samples,
        source=SourceFacts(
            kind="folder", num_samples=count, keys_sha256=keys_digest(_key(number) for number in range(count)),
            labels_sha256=labels_digest(range(count)), num_classes=count, class_names=[], subset=None,
        ),
        views=ViewFacts(
            recipe="rrc-flip", seed=0, num_views=1, size=synthetic.view_size, interpolation="bicubic",
            fields=list(VIEW_FIELDS), params={}, mean=NORMALIZATION, std=NORMALIZATION,
            jpeg_quality=synthetic.jpeg_quality,
        ),
        versions={},
    )  # fmt: skip


def _group_fingerprint(synthetic: SyntheticCache, base: BaseFingerprint) -> GroupFingerprint:
    stride = make_codec(synthetic.codec, {}).layout(synthetic.shape).stride_bytes
    column = ColumnFacts(
        name="features", tap=_TAP, kind="patch", codec=synthetic.codec, params={}, shape=list(synthetic.shape),
        grid=list(synthetic.grid), stride_bytes=stride,
    )  # fmt: skip
    teacher = TeacherFacts(
        name="noise", kwargs={}, pretrained_cfg={}, num_blocks=1, weights="random", weights_sha256="", precision="fp32",
        device="cpu", cpu_threads=1, mean=[0.5] * 3, std=[0.5] * 3,
    )  # fmt: skip
    return GroupFingerprint(
        format_version=FORMAT_VERSION,
        base=fingerprint_digest(base),
        teacher=teacher,
        batch_size=1,
        statistics=synthetic.statistics,
        columns=[column],
        versions={},
    )


def _pixels_fingerprint(synthetic: SyntheticCache, base: BaseFingerprint) -> GroupFingerprint:
    return GroupFingerprint(
        format_version=FORMAT_VERSION,
        base=fingerprint_digest(base),
        teacher=None,
        batch_size=1,
        statistics="light",
        columns=[pixel_column(base.views.size, jpeg_quality=synthetic.jpeg_quality)],
        versions={},
    )
