import io
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from kdcache.cache.facts import FileFacts
from kdcache.cache.hdf5 import decoded, encoded, from_hex, hdf5_bytes, head_arrays, head_from, read_hdf5
from kdcache.cache.index import index_bytes, read_index
from kdcache.errors import CorruptCacheError, Remedy
from tests.cache.test_index import make_index

ARRAYS = {"a": np.arange(6).reshape(2, 3), "columns/x/b": np.zeros((0, 4), np.float32), "columns/y": np.array([b"t"])}


def test_arrays_come_back_by_path(tmp_path: Path) -> None:
    found = read_hdf5(tmp_path / "i.h5", hdf5_bytes(ARRAYS))
    assert found.keys() == ARRAYS.keys()
    for name, values in ARRAYS.items():
        np.testing.assert_array_equal(found[name], values)
    assert read_hdf5(tmp_path / "i.h5", hdf5_bytes(ARRAYS), skip="columns").keys() == {"a"}


def test_texts_of_any_bytes_come_back() -> None:
    texts = ["a", "", b"\xff".decode("utf-8", "surrogateescape"), "ü" * 30]
    assert [decoded(each) for each in encoded(texts)] == texts
    assert from_hex(["00ff", "0102"], 2).tolist() == [[0, 255], [1, 2]]


def test_identities_of_files_come_back() -> None:
    files = {"samples": FileFacts(sha256="ab" * 32, xxh3="01" * 8, size_bytes=1 << 40)}
    assert head_from(head_arrays("ab" * 32, files)) == ("ab" * 32, files)
    assert head_from(head_arrays("ab" * 32, {})).files == {}


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


def test_hard_links_upon_hard_links_end_at_once(tmp_path: Path) -> None:
    """150 names for one group on each of three levels are three million paths to one dataset."""
    buffer = io.BytesIO(index_bytes(make_index()))
    with h5py.File(buffer, "a") as file:
        inner = file.create_group("l0")
        inner["x"] = np.zeros(4)
        for level in (1, 2, 3):
            outer = file.create_group(f"l{level}")
            for number in range(150):
                outer[f"n{number}"] = inner
            inner = outer
    began = time.monotonic()
    with pytest.raises(CorruptCacheError, match=r"i\.h5"):
        read_index(tmp_path / "i.h5", data=buffer.getvalue())
    assert time.monotonic() - began < 10


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
