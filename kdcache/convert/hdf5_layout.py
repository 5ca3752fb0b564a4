"""What a cache is as one HDF5 file: columns as arrays over all records, every other file as its bytes.

```
/manifest                              uint8, the base's manifest
/shards/<part>/<shard>                 uint8, the files of the base: samples, ledger, index
/groups/<group>/manifest               uint8
/groups/<group>/shards/<part>/<shard>  uint8, the group's indexes, and tars of JPEG files
/groups/<group>/columns/<column>/<field>  (R, *shape): record r is view r % K of sample r // K, as the codec stores it
```

A column has the attributes tap, kind, codec, params (JSON), shape and grid. The tars of columns are not kept: names,
headers and trailer follow from the rest, to the bit.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdcache.cache.base import BASE_PARTS, BaseManifest
from kdcache.cache.facts import ColumnFacts, FileFacts
from kdcache.cache.group import GroupManifest
from kdcache.cache.paths import INDEX
from kdcache.cache.record import RecordField

MANIFEST = "manifest"
FORMAT = "kdcache cache as one HDF5 file, version 1"


@dataclass(frozen=True)
class StoredFile:
    """One file that is kept as its bytes.

    Args:
        dataset: Where in the HDF5 file.
        group: Of columns; empty for the base.
        part, shard: As in CachePaths.shard.
        facts: Its identity.
    """

    dataset: str
    group: str
    part: str
    shard: str
    facts: FileFacts


@dataclass(frozen=True)
class StoredField:
    """One field of a column over all records of a cache.

    Args:
        dataset: Where in the HDF5 file.
        group, column: Whose.
        field: Which.
        num_records: R.
    """

    dataset: str
    group: str
    column: ColumnFacts
    field: RecordField
    num_records: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(R, *shape)."""
        return (self.num_records, *self.field.shape)


def stored_files(base: BaseManifest, groups: Mapping[str, GroupManifest]) -> Iterator[StoredFile]:
    """The files kept as bytes, shard by shard."""
    for number, shard in enumerate(base.shards):
        for part in BASE_PARTS:
            yield StoredFile(f"shards/{part}/{shard.name}", "", part, shard.name, shard.files[part])
        for name, group in groups.items():
            own = group.shards[number]
            loose = [column.name for column in group.fingerprint.columns if not column.stride_bytes]
            for part in (INDEX, *loose):
                yield StoredFile(f"groups/{name}/shards/{part}/{shard.name}", name, part, shard.name, own.files[part])


def stored_fields(base: BaseManifest, groups: Mapping[str, GroupManifest]) -> Iterator[StoredField]:
    """The arrays of all columns whose records are of one size."""
    for name, group in groups.items():
        for column in group.fingerprint.columns:
            for field in column.layout().fields if column.stride_bytes else ():
                dataset = f"groups/{name}/columns/{column.name}/{field.name}"
                yield StoredField(dataset, name, column, field, base.num_records)


def manifest_dataset(group: str) -> str:
    """Where the manifest of a group is, or of the base for an empty name."""
    return f"groups/{group}/{MANIFEST}" if group else MANIFEST


def byte_array(data: bytes) -> np.ndarray[Any, Any]:
    """Bytes as a dataset holds them."""
    return np.frombuffer(data, np.uint8)
