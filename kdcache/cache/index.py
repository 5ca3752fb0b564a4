"""The index of a shard: a small HDF5 file that spares readers every tar header and every JSON.

It repeats what the tars say (rebuildable) and adds the statistics. Readers hash it before HDF5 sees it, and accept
nothing but plain numeric and fixed-length string datasets.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import h5py as typeless_h5py  # pyright: ignore[reportMissingTypeStubs]
import numpy as np

from kdcache.cache.manifest import FileFacts
from kdcache.cache.paths import is_safe_name
from kdcache.cache.record import Array
from kdcache.cache.sample import Sample
from kdcache.cache.statistics import TokenStatistics
from kdcache.cache.tar import Member
from kdcache.errors import CorruptCacheError

# h5py ships no types; what comes out of it is checked at run time, in _read_arrays.
h5py: Any = typeless_h5py

_STATISTICS = ("mean", "m2", "minimum", "maximum", "raw_moment", "unit_moment")
_ALLOWED_FILTERS = {"fletcher32"}


@dataclass
class ColumnIndex:
    """What the index knows of one column in one shard.

    Attributes:
        offset0, stride: Record i starts (with its tar header) at byte ``offset0 + i * stride``.
        crc32: (R,) uint32 over each payload.
        column_sums: (R, C) float32 sums over the tokens of each record's decoded values.
        sum_of_squares: (R,) float64.
        statistics: Over all tokens of the shard.
        spectrum_records: (M,) int64, which records have their singular values kept.
        singular_energies: (M, min(N, C)) float32.
    """

    offset0: int
    stride: int
    crc32: Array
    column_sums: Array
    sum_of_squares: Array
    statistics: TokenStatistics
    spectrum_records: Array
    singular_energies: Array


@dataclass
class ShardIndex:
    """Everything a reader needs of one shard; record r is view ``r % K`` of sample ``r // K``.

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
        columns: By column name.
        files: Identity of every other file of the shard, by part; naming them is what makes the shard done.
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
    columns: dict[str, ColumnIndex] = field(default_factory=dict[str, ColumnIndex])
    files: dict[str, FileFacts] = field(default_factory=dict[str, FileFacts])

    @classmethod
    def from_samples(
        cls, samples: Sequence[Sample], image_members: Sequence[Member | None], *, num_views: int, num_view_fields: int
    ) -> "ShardIndex":
        """The columnar copy of a shard's samples, columns still empty."""
        views = np.array([sample.views for sample in samples], np.int32)
        hashes = _from_hex([pixels for sample in samples for pixels in sample.pixel_hashes], 16)
        return cls(
            keys=_encoded([sample.key for sample in samples]),
            source_keys=_encoded([sample.source_key for sample in samples]),
            modes=_encoded([sample.mode for sample in samples]),
            labels=np.array([sample.label for sample in samples], np.int64),
            sizes=np.array([sample.size for sample in samples], np.int32).reshape(-1, 2),
            orientations=np.array([sample.orientation for sample in samples], np.uint8),
            source_sha256=_from_hex([sample.source_sha256 for sample in samples], 32),
            views=views.reshape(len(samples), num_views, num_view_fields),
            pixel_hashes=hashes.reshape(len(samples), num_views, 16),
            image_offsets=np.array([member.offset if member else 0 for member in image_members], np.int64),
            image_sizes=np.array([member.size_bytes if member else 0 for member in image_members], np.int64),
        )

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, row: int) -> str:
        """The safe key of a sample."""
        return _decoded(self.keys[row])

    def sample(self, row: int) -> Sample:
        """One row as the record it was made of."""
        return Sample(
            key=self.key(row),
            source_key=_decoded(self.source_keys[row]),
            label=int(self.labels[row]),
            source_sha256=self.source_sha256[row].tobytes().hex(),
            size=(int(self.sizes[row, 0]), int(self.sizes[row, 1])),
            mode=_decoded(self.modes[row]),
            orientation=int(self.orientations[row]),
            views=tuple(tuple(int(value) for value in view) for view in self.views[row]),
            pixel_hashes=tuple(pixels.tobytes().hex() for pixels in self.pixel_hashes[row]),
        )


_SAMPLE_ARRAYS = tuple(each.name for each in fields(ShardIndex) if each.name not in ("columns", "files"))


def index_bytes(index: ShardIndex) -> bytes:
    """The HDF5 file of an index; the same index gives the same bytes."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver=("earliest", "v110")) as file:
        for name in _SAMPLE_ARRAYS:
            _put(file, name, getattr(index, name))
        for name, column in index.columns.items():
            _put_column(file.create_group(f"columns/{name}"), column)
        files = file.create_group("files")
        _put(files, "parts", _encoded(list(index.files)))
        _put(files, "sha256", _from_hex([facts.sha256 for facts in index.files.values()], 32))
        if all(facts.xxh3 for facts in index.files.values()):
            _put(files, "xxh3", _from_hex([facts.xxh3 for facts in index.files.values()], 8))
        _put(files, "size_bytes", np.array([facts.size_bytes for facts in index.files.values()], np.int64))
    return buffer.getvalue()


def _put_column(group: Any, column: ColumnIndex) -> None:
    statistics = column.statistics
    counts = [column.offset0, column.stride, statistics.count, statistics.num_zero_tokens]
    _put(group, "counts", np.array(counts, np.int64))
    _put(group, "crc32", column.crc32)
    _put(group, "column_sums", column.column_sums)
    _put(group, "sum_of_squares", column.sum_of_squares)
    _put(group, "spectrum_records", column.spectrum_records)
    _put(group, "singular_energies", column.singular_energies)
    for name in _STATISTICS:
        _put(group, name, getattr(statistics, name))


def read_index(path: Path, *, data: bytes | None = None, with_columns: bool = True) -> ShardIndex:
    """Read an index.

    Args:
        path: The file, also named in errors.
        data: Its bytes where the caller has already read and hashed them.
        with_columns: False leaves `columns` empty, which spares large statistics.

    Raises: CorruptCacheError for a file that is not an index, or that asks HDF5 for anything unusual.
    """
    data = path.read_bytes() if data is None else data
    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            arrays = _read_arrays(file, len(data), path, skip="" if with_columns else "columns")
        return _index_from(arrays)
    except CorruptCacheError:
        raise
    except Exception as error:  # HDF5 reports damage in many ways, all of them mean the same here
        raise CorruptCacheError(
            f"{path}: not a readable index ({error!r}); rebuild it with `kdcache verify --rebuild`"
        ) from error


def _index_from(arrays: dict[str, Array]) -> ShardIndex:
    names = sorted({path.split("/")[1] for path in arrays if path.startswith("columns/")})
    columns = {name: _column_from(arrays, f"columns/{name}/") for name in names}
    parts = arrays["files/parts"]
    quick = arrays.get("files/xxh3", np.empty((len(parts), 0), np.uint8))  # absent from the first caches
    files = {
        _decoded(part): FileFacts(sha256=digest.tobytes().hex(), xxh3=xxh3.tobytes().hex(), size_bytes=int(size_bytes))
        for part, digest, xxh3, size_bytes in zip(
            parts, arrays["files/sha256"], quick, arrays["files/size_bytes"], strict=True
        )
    }
    if unsafe := [part for part in files if not is_safe_name(part)]:
        raise ValueError(f"{unsafe} cannot name parts of a cache")
    return ShardIndex(**{name: arrays[name] for name in _SAMPLE_ARRAYS}, columns=columns, files=files)


def _column_from(arrays: dict[str, Array], prefix: str) -> ColumnIndex:
    offset0, stride, count, num_zero_tokens = (int(value) for value in arrays[prefix + "counts"])
    with_moments = arrays[prefix + "raw_moment"].size > 0
    statistics = TokenStatistics(len(arrays[prefix + "mean"]), with_moments, count, num_zero_tokens)
    for name in _STATISTICS:
        setattr(statistics, name, arrays[prefix + name])
    return ColumnIndex(
        offset0=offset0,
        stride=stride,
        statistics=statistics,
        crc32=arrays[prefix + "crc32"],
        column_sums=arrays[prefix + "column_sums"],
        sum_of_squares=arrays[prefix + "sum_of_squares"],
        spectrum_records=arrays[prefix + "spectrum_records"],
        singular_energies=arrays[prefix + "singular_energies"],
    )


def _put(group: Any, name: str, values: Array) -> None:
    # HDF5 checksums chunks only, and an empty dataset cannot be chunked.
    if values.size:
        group.create_dataset(name, data=values, chunks=values.shape, fletcher32=True)
    else:
        group.create_dataset(name, data=values)


def _encoded(texts: list[str]) -> Array:
    return np.array([text.encode("utf-8", "surrogateescape") for text in texts], dtype=bytes)


def _decoded(value: bytes) -> str:
    return bytes(value).decode("utf-8", "surrogateescape")


def _from_hex(digests: list[str], size: int) -> Array:
    return np.frombuffer(bytes.fromhex("".join(digests)), np.uint8).reshape(-1, size)


def _read_arrays(group: Any, file_bytes: int, path: Path, prefix: str = "", skip: str = "") -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    for name in group:
        if name == skip:
            continue
        if not isinstance(group.get(name, getlink=True), h5py.HardLink) or len(group.attrs):
            raise CorruptCacheError(f"{path}: {prefix}{name} is not what this format writes; the index is not ours")
        item: Any = group[name]
        if isinstance(item, h5py.Group):
            if prefix.count("/") > 1:
                raise CorruptCacheError(f"{path}: groups nested too deeply at {prefix}{name}; the index is not ours")
            arrays |= _read_arrays(item, file_bytes, path, f"{prefix}{name}/")
            continue
        usual = (
            isinstance(item, h5py.Dataset)
            and item.dtype.kind in "iufS"
            and not item.is_virtual
            and item.external is None
            and _filters(item) <= _ALLOWED_FILTERS
            and item.nbytes <= file_bytes
        )
        if not usual:
            raise CorruptCacheError(f"{path}: {prefix}{name} is not what this format writes; the index is not ours")
        arrays[prefix + name] = item[()]
    return arrays


def _filters(dataset: Any) -> set[str]:
    plist = dataset.id.get_create_plist()
    return {plist.get_filter(number)[3].decode("ascii", "replace") for number in range(plist.get_nfilters())}
