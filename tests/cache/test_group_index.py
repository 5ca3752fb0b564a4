from pathlib import Path

import numpy as np
import pytest

from kdcache.cache.facts import FileFacts
from kdcache.cache.fidelity import Fidelity
from kdcache.cache.group_index import ColumnIndex, GroupIndex, PixelIndex, group_index_bytes, read_group_index
from kdcache.cache.hdf5 import hdf5_bytes, read_hdf5
from kdcache.cache.statistics import TokenStatistics
from kdcache.errors import CorruptCacheError


def column_index(fidelity: Fidelity | None) -> ColumnIndex:
    statistics = TokenStatistics(4, with_moments=True)
    sums = statistics.update(np.random.default_rng(0).random((6, 5, 4)).astype(np.float32))
    return ColumnIndex(
        1024, np.arange(6, dtype=np.uint32), sums.column_sums.astype(np.float32), sums.squares, statistics,
        np.array([0, 2]), np.ones((2, 4), np.float32), fidelity,
    )  # fmt: skip


def make_index() -> GroupIndex:
    fidelity = Fidelity()
    fidelity.update(np.ones((2, 3), np.float32), np.full((2, 3), 1.25, np.float32))
    pixels = PixelIndex(np.arange(3, dtype=np.uint32), np.array([512, 2048, 4096]), np.array([700, 800, 900]))
    return GroupIndex(
        plan="ef" * 32,
        columns={"blocks-1": column_index(fidelity), "rebuilt": column_index(None)},
        pixels={"jpeg": pixels},
        files={"blocks-1": FileFacts(sha256="cd" * 32, xxh3="00ff" * 4, size_bytes=10_240)},
    )


def test_everything_comes_back(tmp_path: Path) -> None:
    index = make_index()
    found = read_group_index(tmp_path / "i.h5", data=group_index_bytes(index))
    assert (found.plan, found.files) == (index.plan, index.files)
    assert found.columns.keys() == index.columns.keys()
    for name, column in index.columns.items():
        for array, values in column.arrays().items():
            np.testing.assert_array_equal(found.columns[name].arrays()[array], values, err_msg=array)
    for array, values in index.pixels["jpeg"].arrays().items():
        np.testing.assert_array_equal(found.pixels["jpeg"].arrays()[array], values)
    ours, theirs = index.columns["blocks-1"].fidelity, found.columns["blocks-1"].fidelity
    assert ours is not None
    assert theirs is not None
    assert theirs.summary() == ours.summary()
    assert found.columns["rebuilt"].fidelity is None
    assert found.columns["blocks-1"].statistics.count == 30


def test_the_same_index_gives_the_same_bytes() -> None:
    assert group_index_bytes(make_index()) == group_index_bytes(make_index())


def test_files_can_be_read_without_the_columns(tmp_path: Path) -> None:
    found = read_group_index(tmp_path / "i.h5", data=group_index_bytes(make_index()), files_only=True)
    assert found.files == make_index().files
    assert found.columns == found.pixels == {}


@pytest.mark.parametrize(
    "missing", ["columns/blocks-1/counts", "columns/blocks-1/mean", "files/sha256", "plan", "columns/jpeg/crc32"]
)
def test_an_index_with_something_missing_is_refused(tmp_path: Path, missing: str) -> None:
    arrays = read_hdf5(tmp_path / "i.h5", group_index_bytes(make_index()))
    del arrays[missing]
    with pytest.raises(CorruptCacheError, match=r"i\.h5: not a readable index"):
        read_group_index(tmp_path / "i.h5", data=hdf5_bytes(arrays))
