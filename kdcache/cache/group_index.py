"""The index of a shard of a group: checksums, sums and statistics of its columns, and where JPEG records lie.

Rebuildable from the column tars, but for the fidelity of the codecs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kdcache.cache.facts import FileFacts
from kdcache.cache.fidelity import Fidelity
from kdcache.cache.group import GroupFingerprint
from kdcache.cache.hdf5 import hdf5_bytes, head_arrays, head_from, read_hdf5, unreadable
from kdcache.cache.record import Array
from kdcache.cache.schema import ArraySpec, check_arrays, check_finite, check_range
from kdcache.cache.statistics import TokenStatistics
from kdcache.storage import read_regular

_STATISTICS = ("mean", "m2", "minimum", "maximum", "raw_moment", "unit_moment")
_COLUMNS = "columns"
_MAX_OFFSET = 2**53  # so that sums of two cannot overflow
# R records, C channels, D of the second moments, M records with singular values, E values of each.
_COLUMN_SPECS: dict[str, ArraySpec] = {
    "counts": ("<i8", (3,)),
    "crc32": ("<u4", ("R",)),
    "column_sums": ("<f4", ("R", "C")),
    "sum_of_squares": ("<f8", ("R",)),
    "mean": ("<f8", ("C",)),
    "m2": ("<f8", ("C",)),
    "minimum": ("<f8", ("C",)),
    "maximum": ("<f8", ("C",)),
    "raw_moment": ("<f8", ("D", "D")),
    "unit_moment": ("<f8", ("D", "D")),
    "spectrum_records": ("<i8", ("M",)),
    "singular_energies": ("<f4", ("M", "E")),
}
_PIXEL_SPECS: dict[str, ArraySpec] = {"crc32": ("<u4", ("R",)), "offsets": ("<i8", ("R",)), "sizes": ("<i8", ("R",))}


@dataclass
class ColumnIndex:
    """What the index knows of one column of tokens or logits in one shard.

    Record r is view ``r % K`` of sample ``r // K``.

    Attributes:
        stride: Record r starts (with its tar header) at byte ``r * stride``.
        crc32: (R,) uint32 over each payload.
        column_sums: (R, C) float32 sums over the tokens of each record's decoded values.
        sum_of_squares: (R,) float64.
        statistics: Over all tokens of the shard.
        spectrum_records: (M,) int64, which records have their singular values kept.
        singular_energies: (M, min(N, C)) float32.
        fidelity: What the codec lost here; None where the index was rebuilt.
    """

    stride: int
    crc32: Array
    column_sums: Array
    sum_of_squares: Array
    statistics: TokenStatistics
    spectrum_records: Array
    singular_energies: Array
    fidelity: Fidelity | None = None

    def arrays(self) -> dict[str, Array]:
        """Its datasets."""
        statistics = self.statistics
        found = {
            "counts": np.array([self.stride, statistics.count, statistics.num_zero_tokens], np.int64),
            "crc32": self.crc32,
            "column_sums": self.column_sums,
            "sum_of_squares": self.sum_of_squares,
            "spectrum_records": self.spectrum_records,
            "singular_energies": self.singular_energies,
            **{name: getattr(statistics, name) for name in _STATISTICS},
        }
        if self.fidelity is not None:
            found |= self.fidelity.arrays()
        return found

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array]) -> "ColumnIndex":
        """What `arrays` gave. Raises: KeyError, ValueError."""
        sides = check_arrays(arrays, _COLUMN_SPECS)
        if sides["D"] not in (0, sides["C"]):
            raise ValueError(f"second moments of {sides['D']} channels, there are {sides['C']}")
        check_range("counts", arrays["counts"], 0, _MAX_OFFSET)
        check_range("spectrum_records", arrays["spectrum_records"], 0, sides["R"] - 1)
        for name in ("mean", "m2", "column_sums", "sum_of_squares", "singular_energies"):
            check_finite(name, arrays[name])
        stride, count, num_zero_tokens = (int(value) for value in arrays["counts"])
        with_moments = arrays["raw_moment"].size > 0
        statistics = TokenStatistics(len(arrays["mean"]), with_moments, count, num_zero_tokens)
        for name in _STATISTICS:
            setattr(statistics, name, arrays[name])
        has_fidelity = "fidelity" in arrays
        if has_fidelity:
            check_arrays(arrays, {"fidelity": ("<f8", (6,)), "fidelity_channels": ("<f8", (3, "F"))})
            check_finite("fidelity", arrays["fidelity"])
            check_finite("fidelity_channels", arrays["fidelity_channels"])
        return cls(
            stride=stride,
            statistics=statistics,
            crc32=arrays["crc32"],
            column_sums=arrays["column_sums"],
            sum_of_squares=arrays["sum_of_squares"],
            spectrum_records=arrays["spectrum_records"],
            singular_energies=arrays["singular_energies"],
            fidelity=Fidelity.from_arrays(arrays["fidelity"], arrays["fidelity_channels"]) if has_fidelity else None,
        )


@dataclass
class PixelIndex:
    """What the index knows of a column of stored pixels in one shard.

    Attributes:
        crc32: (R,) uint32 over each payload: the raw pixels, or the JPEG file.
        offsets, sizes: (R,) int64, where the payload of each record lies in the tar.
    """

    crc32: Array
    offsets: Array
    sizes: Array

    def arrays(self) -> dict[str, Array]:
        """Its datasets."""
        return {"crc32": self.crc32, "offsets": self.offsets, "sizes": self.sizes}

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array]) -> "PixelIndex":
        """What `arrays` gave. Raises: KeyError, ValueError."""
        check_arrays(arrays, _PIXEL_SPECS)
        for name in ("offsets", "sizes"):
            check_range(name, arrays[name], 0, _MAX_OFFSET)
        return cls(**{name: arrays[name] for name in _PIXEL_SPECS})


@dataclass
class GroupIndex:
    """Everything known of one shard of a group.

    Attributes:
        columns: Tokens and logits, by column name.
        pixels: Stored pixels, by column name.
        plan, files: See IndexHead; the files are the column tars, by column.
    """

    plan: str
    columns: dict[str, ColumnIndex] = field(default_factory=dict[str, ColumnIndex])
    pixels: dict[str, PixelIndex] = field(default_factory=dict[str, PixelIndex])
    files: dict[str, FileFacts] = field(default_factory=dict[str, FileFacts])


def group_index_bytes(index: GroupIndex) -> bytes:
    """The HDF5 file of an index; the same index gives the same bytes."""
    arrays: dict[str, Array] = {}
    for name, column in {**index.columns, **index.pixels}.items():
        arrays |= {f"{_COLUMNS}/{name}/{array}": values for array, values in column.arrays().items()}
    return hdf5_bytes({**arrays, **head_arrays(index.plan, index.files)})


def check_group_index(
    index: GroupIndex, fingerprint: GroupFingerprint, files: Mapping[str, FileFacts], num: int
) -> None:
    """Compare an index with what the manifests say of its shard.

    Args:
        index: Of the shard.
        fingerprint: Of the group.
        files: Of the shard, as the group's manifest names them.
        num: Records of each column.

    Raises: ValueError with what was found and wanted.
    """
    held = {**index.columns, **index.pixels}
    if set(held) != {facts.name for facts in fingerprint.columns}:
        raise ValueError(f"columns {sorted(held)} found, those of the manifest wanted")
    for facts in fingerprint.columns:
        column = held[facts.name]
        if len(column.crc32) != num:
            raise ValueError(f"column {facts.name}: {len(column.crc32)} records found, {num} wanted")
        if isinstance(column, PixelIndex) != (facts.kind == "pixels"):
            raise ValueError(f"column {facts.name} is not of kind {facts.kind}")
        if isinstance(column, PixelIndex):
            check_range("the ends of records", column.offsets + column.sizes, 0, files[facts.name].size_bytes)
            continue
        found = column.stride, column.statistics.num_channels, column.singular_energies.shape[1]
        energies = min(facts.shape) if len(facts.shape) > 1 else 1
        wanted = facts.stride_bytes, facts.shape[-1], found[2] if not len(column.spectrum_records) else energies
        if found != wanted:
            raise ValueError(f"column {facts.name}: (stride, channels, energies) {found} found, {wanted} wanted")


def read_group_index(path: Path, *, data: bytes | None = None, files_only: bool = False) -> GroupIndex:
    """Read an index.

    Args:
        path: The file, also named in errors.
        data: Its bytes where the caller has already read and hashed them.
        files_only: Leave out what it knows of the columns, which spares large statistics.

    Raises: CorruptCacheError for a file that is not an index, or that asks HDF5 for anything unusual.
    """
    data = read_regular(path) if data is None else data
    arrays = read_hdf5(path, data, skip=_COLUMNS if files_only else "")
    try:
        index = GroupIndex(**head_from(arrays)._asdict())
        for name in sorted({where.split("/")[1] for where in arrays if where.startswith(f"{_COLUMNS}/")}):
            prefix = f"{_COLUMNS}/{name}/"
            own = {where.removeprefix(prefix): each for where, each in arrays.items() if where.startswith(prefix)}
            if "offsets" in own:
                index.pixels[name] = PixelIndex.from_arrays(own)
            else:
                index.columns[name] = ColumnIndex.from_arrays(own)
    except (KeyError, ValueError, TypeError) as error:
        raise unreadable(path, error) from None
    return index
