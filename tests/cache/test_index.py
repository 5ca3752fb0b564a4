import hashlib
import io
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from kdcache.cache.index import ColumnIndex, ShardIndex, index_bytes, read_index
from kdcache.cache.manifest import FileFacts
from kdcache.cache.sample import Sample
from kdcache.cache.statistics import TokenStatistics
from kdcache.cache.tar import Member
from kdcache.errors import CorruptCacheError, Remedy

SAMPLES = [
    Sample(
        key=f"key-{number}",
        source_key=b"source \xff".decode("utf-8", "surrogateescape") + str(number),
        label=number - 1,
        source_sha256=f"{number:064x}",
        size=(8, 9),
        mode="RGB" if number else "L",
        orientation=1 + number,
        views=((number, 1, 2), (3, 4, 5)),
        pixel_hashes=("ab" * 16, f"{number:032x}"),
    )
    for number in range(3)
]


def make_index() -> ShardIndex:
    members = [Member("a.jpg", 512, 7), None, Member("c.jpg", 2048, 9)]
    index = ShardIndex.from_samples(SAMPLES, members, num_views=2, num_view_fields=3)
    statistics = TokenStatistics(4, with_moments=True)
    sums, squares = statistics.update(np.random.default_rng(0).random((6, 5, 4)).astype(np.float32))
    index.columns["blocks-1"] = ColumnIndex(
        0, 1024, np.arange(6, dtype=np.uint32), sums.astype(np.float32), squares, statistics,
        np.array([0, 2]), np.ones((2, 4), np.float32),
    )  # fmt: skip
    index.files["samples"] = FileFacts(sha256="cd" * 32, size_bytes=10_240)
    return index


def test_everything_comes_back(tmp_path: Path) -> None:
    index = make_index()
    found = read_index(tmp_path / "i.h5", data=index_bytes(index))
    assert [found.sample(row) for row in range(len(found))] == SAMPLES
    assert found.image_offsets.tolist() == [512, 0, 2048]
    assert found.image_sizes.tolist() == [7, 0, 9]
    assert found.files == index.files
    ours, theirs = index.columns["blocks-1"], found.columns["blocks-1"]
    for name in ("crc32", "column_sums", "sum_of_squares", "spectrum_records", "singular_energies"):
        np.testing.assert_array_equal(getattr(theirs, name), getattr(ours, name))
    np.testing.assert_array_equal(theirs.statistics.raw_moment, ours.statistics.raw_moment)
    assert (theirs.stride, theirs.statistics.count) == (1024, 30)


def test_quick_hashes_come_back_and_may_be_absent(tmp_path: Path) -> None:
    """The first caches had none; a mixture is not written."""
    index = make_index()
    index.files["samples"] = FileFacts(sha256="cd" * 32, xxh3="00ff" * 4, size_bytes=10_240)
    assert read_index(tmp_path / "i.h5", data=index_bytes(index)).files == index.files
    index.files["ledger"] = FileFacts(sha256="ab" * 32, size_bytes=1)
    found = read_index(tmp_path / "i.h5", data=index_bytes(index)).files
    assert [facts.xxh3 for facts in found.values()] == ["", ""]


def test_the_same_index_gives_the_same_bytes_at_any_time() -> None:
    first = index_bytes(make_index())
    time.sleep(1.1)
    assert hashlib.sha256(first).digest() == hashlib.sha256(index_bytes(make_index())).digest()


def test_a_shard_without_samples(tmp_path: Path) -> None:
    index = ShardIndex.from_samples([], [], num_views=2, num_view_fields=3)
    found = read_index(tmp_path / "i.h5", data=index_bytes(index))
    assert len(found) == 0
    assert found.views.shape == (0, 2, 3)


def hostile(change: str, folder: Path) -> bytes:
    """An index that asks HDF5 for something this format never writes."""
    (folder / "secret").write_bytes(b"\0" * 64)
    buffer = io.BytesIO(index_bytes(make_index()))
    with h5py.File(buffer, "a") as file:
        if change == "external storage":
            file.create_dataset("x", shape=(8,), dtype="f8", external=[(str(folder / "secret"), 0, 64)])
        elif change == "external link":
            file["x"] = h5py.ExternalLink(str(folder / "other.h5"), "/")
        elif change == "soft link":
            file["x"] = h5py.SoftLink("/keys")
        elif change == "virtual":
            layout = h5py.VirtualLayout(shape=(8,), dtype="f8")
            layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "y", shape=(8,))
            file.create_virtual_dataset("x", layout)
        elif change == "object":
            file.create_dataset("x", data=["text"], dtype=h5py.string_dtype())
        elif change == "filter":
            file.create_dataset("x", data=np.zeros(100), compression="gzip")
        elif change == "huge":
            file.create_dataset("x", shape=(1 << 40,), dtype="f8", chunks=(1024,))
        elif change == "attribute":
            file.attrs["x"] = 1
        elif change == "deep":
            file.create_group("a/b/c/d/e")
        elif change == "missing":
            del file["keys"]
        else:
            del file["files/parts"]
            file["files/parts"] = np.array([b"../../x"])
    return buffer.getvalue()


HOSTILE = ("external storage", "external link", "soft link", "virtual", "object", "filter", "huge", "attribute", "deep")


@pytest.mark.parametrize("change", [*HOSTILE, "missing", "escape"])
def test_hostile_files_are_refused(tmp_path: Path, change: str) -> None:
    with pytest.raises(CorruptCacheError, match=r"i\.h5"):
        read_index(tmp_path / "i.h5", data=hostile(change, tmp_path))


def test_no_damage_crashes_or_hangs(tmp_path: Path) -> None:
    """Four random bytes, two hundred times: it reads, or it is refused; the manifest's hash finds what still reads."""
    data = index_bytes(make_index())
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        damaged = bytearray(data)
        for position in random.integers(0, len(data), 4):
            damaged[position] ^= int(random.integers(1, 256))
        try:
            read_index(tmp_path / "i.h5", data=bytes(damaged))
        except CorruptCacheError:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize("size", [0, 100, 1000])
def test_truncation_is_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(CorruptCacheError, match="not a readable index") as caught:
        read_index(tmp_path / "i.h5", data=index_bytes(make_index())[:size])
    assert caught.value.remedy is Remedy.REBUILD
