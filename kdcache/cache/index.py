"""The index of a shard of the base: a small HDF5 file that spares readers every tar header and every JSON.

It repeats the contents of the samples tar, so it can be rebuilt from it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kdcache.cache.base import BaseFingerprint, BaseShard
from kdcache.cache.facts import FileFacts
from kdcache.cache.hdf5 import (
    decoded,
    encoded,
    from_hex,
    hdf5_bytes,
    head_arrays,
    head_from,
    read_hdf5,
    unreadable,
)
from kdcache.cache.keys import is_safe_key
from kdcache.cache.paths import SAMPLES
from kdcache.cache.record import Array
from kdcache.cache.sample import UNLABELLED, Sample
from kdcache.cache.schema import ArraySpec, check_arrays, check_range
from kdcache.cache.tar import Member
from kdcache.storage import read_regular

_MAX_OFFSET = 2**53  # so that sums of two cannot overflow


@dataclass
class ShardIndex:
    """Everything a reader needs of the images of one shard.

    Attributes:
        keys, source_keys, modes: (S,) bytes.
        labels: (S,) int64.
        sizes: (S, 2) int32 width and height in pixels.
        orientations: (S,) uint8.
        source_sha256: (S, 32) uint8.
        views: (S, K, F) int32.
        pixel_hashes: (S, K, 16) uint8.
        image_offsets, image_sizes: (S,) int64, where each source image lies in the samples tar; size 0 when the cache
            does not embed images.
        plan, files: See IndexHead.
    """

    keys: Array
    source_keys: Array
    modes: Array
    labels: Array
    sizes: Array
    orientations: Array
    source_sha256: Array
    views: Array
    pixel_hashes: Array
    image_offsets: Array
    image_sizes: Array
    plan: str
    files: dict[str, FileFacts] = field(default_factory=dict[str, FileFacts])

    @classmethod
    def from_samples(
        cls,
        samples: Sequence[Sample],
        image_members: Sequence[Member | None],
        *,
        plan: str,
        num_views: int,
        num_view_fields: int,
    ) -> "ShardIndex":
        """The columnar copy of a shard's samples; its files are named later."""
        views = np.array([sample.views for sample in samples], np.int32)
        hashes = from_hex([pixels for sample in samples for pixels in sample.pixel_hashes], 16)
        return cls(
            keys=encoded([sample.key for sample in samples]),
            source_keys=encoded([sample.source_key for sample in samples]),
            modes=encoded([sample.mode for sample in samples]),
            labels=np.array([sample.label for sample in samples], np.int64),
            sizes=np.array([sample.size for sample in samples], np.int32).reshape(-1, 2),
            orientations=np.array([sample.orientation for sample in samples], np.uint8),
            source_sha256=from_hex([sample.source_sha256 for sample in samples], 32),
            views=views.reshape(len(samples), num_views, num_view_fields),
            pixel_hashes=hashes.reshape(len(samples), num_views, 16),
            image_offsets=np.array([member.offset if member else 0 for member in image_members], np.int64),
            image_sizes=np.array([member.size_bytes if member else 0 for member in image_members], np.int64),
            plan=plan,
        )

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, row: int) -> str:
        """The safe key of a sample."""
        return decoded(self.keys[row])

    def source_key(self, row: int) -> str:
        """What the source calls a sample."""
        return decoded(self.source_keys[row])

    def sample(self, row: int) -> Sample:
        """One row as the record it was made of."""
        return Sample(
            key=self.key(row),
            source_key=self.source_key(row),
            label=int(self.labels[row]),
            source_sha256=self.source_sha256[row].tobytes().hex(),
            size=(int(self.sizes[row, 0]), int(self.sizes[row, 1])),
            mode=decoded(self.modes[row]),
            orientation=int(self.orientations[row]),
            views=tuple(tuple(int(value) for value in view) for view in self.views[row]),
            pixel_hashes=tuple(pixels.tobytes().hex() for pixels in self.pixel_hashes[row]),
        )


# S images, K views, F integers of a view.
_SPECS: dict[str, ArraySpec] = {
    "keys": ("S", ("S",)),
    "source_keys": ("S", ("S",)),
    "modes": ("S", ("S",)),
    "labels": ("<i8", ("S",)),
    "sizes": ("<i4", ("S", 2)),
    "orientations": ("|u1", ("S",)),
    "source_sha256": ("|u1", ("S", 32)),
    "views": ("<i4", ("S", "K", "F")),
    "pixel_hashes": ("|u1", ("S", "K", 16)),
    "image_offsets": ("<i8", ("S",)),
    "image_sizes": ("<i8", ("S",)),
}


def index_bytes(index: ShardIndex) -> bytes:
    """The HDF5 file of an index; the same index gives the same bytes."""
    return hdf5_bytes({**{name: getattr(index, name) for name in _SPECS}, **head_arrays(index.plan, index.files)})


def _check_values(index: ShardIndex) -> None:
    """Refuse what no samples tar can say. Raises: ValueError."""
    check_range("labels", index.labels, UNLABELLED)
    check_range("sizes", index.sizes, 1)
    check_range("orientations", index.orientations, 1, 8)
    for name in ("image_offsets", "image_sizes"):
        check_range(name, getattr(index, name), 0, _MAX_OFFSET)
    keys = [index.key(row) for row in range(len(index))]
    if wrong := [key for key in keys if not is_safe_key(key)]:
        raise ValueError(f"{wrong[0]!r} is not a key of this format")
    if len(set(keys)) != len(keys):
        raise ValueError("a key is there twice")


def check_index(index: ShardIndex, shard: BaseShard, fingerprint: BaseFingerprint) -> None:
    """Compare an index with what the manifest says of its shard.

    Raises: ValueError with what was found and wanted.
    """
    if len(index) != shard.num_samples:
        raise ValueError(f"{len(index)} samples found, {shard.num_samples} wanted")
    shape = (len(index), fingerprint.views.num_views, len(fingerprint.views.fields))
    if index.views.shape != shape:
        raise ValueError(f"views of shape {index.views.shape} found, {shape} wanted")
    check_range("labels", index.labels, UNLABELLED, fingerprint.source.num_classes - 1)
    check_range("image_sizes", index.image_sizes, 1 if fingerprint.images == "embed" else 0)
    check_range("the ends of images", index.image_offsets + index.image_sizes, 0, shard.files[SAMPLES].size_bytes)


def read_index(path: Path, *, data: bytes | None = None) -> ShardIndex:
    """Read an index.

    Args:
        path: The file, also named in errors.
        data: Its bytes where the caller has already read and hashed them.

    Raises: CorruptCacheError for a file that is not an index, or that asks HDF5 for anything unusual.
    """
    arrays = read_hdf5(path, read_regular(path) if data is None else data)
    try:
        head = head_from(arrays)
        check_arrays(arrays, _SPECS)
        index = ShardIndex(**{name: arrays[name] for name in _SPECS}, plan=head.plan, files=head.files)
        _check_values(index)
        return index
    except (KeyError, ValueError) as error:
        raise unreadable(path, error) from None
