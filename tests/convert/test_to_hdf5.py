from pathlib import Path

import h5py
import numpy as np
import pytest

from kdcache.cache import Cache
from kdcache.cache.codecs import make_codec
from kdcache.convert.to_hdf5 import to_hdf5
from kdcache.durable import sha256_file
from kdcache.errors import CacheMismatchError, CorruptCacheError, UsageError
from tests.conftest import GROUP, file_hashes, flip_bit
from tests.convert.support import killed_at
from tests.convert.test_codec import decoded


def test_columns_are_arrays_that_plain_h5py_reads(tiny_root: Path, tiny_cache: Cache, tmp_path: Path) -> None:
    report = to_hdf5(tiny_root, tmp_path / "c.h5")
    assert (report.num_shards, report.num_skipped) == (3, 0)
    assert list(tmp_path.iterdir()) == [tmp_path / "c.h5"]
    with h5py.File(tmp_path / "c.h5") as file:
        plain = file[f"groups/{GROUP}/columns/blocks-1-patch-fp16"]
        assert plain.attrs["tap"] == "blocks.1/patch"
        assert plain["values"].dtype == np.float16
        np.testing.assert_array_equal(plain["values"][:], decoded(tiny_cache, f"{GROUP}/blocks-1-patch-fp16"))
        fields = {name: each[:] for name, each in file[f"groups/{GROUP}/columns/blocks-1-patch-int8"].items()}
    found = make_codec("int8").decode(fields, (16, 24))
    np.testing.assert_array_equal(found, decoded(tiny_cache, f"{GROUP}/blocks-1-patch-int8"))


@pytest.mark.parametrize(("step", "num_done"), [(1, 0), (7, 0), (12, 0), (17, 1), (21, 2)])
def test_it_resumes_after_a_kill_with_the_bytes_of_an_undisturbed_one(
    tiny_root: Path, tmp_path: Path, step: int, num_done: int
) -> None:
    to_hdf5(tiny_root, tmp_path / "whole.h5")
    assert killed_at(step, lambda: to_hdf5(tiny_root, tmp_path / "c.h5"))
    assert not (tmp_path / "c.h5").exists()
    report = to_hdf5(tiny_root, tmp_path / "c.h5")
    assert (report.num_shards, report.num_skipped) == (3 - num_done, num_done)
    assert sha256_file(tmp_path / "c.h5") == sha256_file(tmp_path / "whole.h5")
    assert to_hdf5(tiny_root, tmp_path / "c.h5").num_shards == 0


def test_a_file_of_another_cache_is_not_written_over(tiny_root: Path, groups_root: Path, tmp_path: Path) -> None:
    to_hdf5(tiny_root, tmp_path / "c.h5")
    with pytest.raises(UsageError, match="holds another cache"):
        to_hdf5(groups_root, tmp_path / "c.h5")
    (tmp_path / "text.h5").write_text("mine")
    with pytest.raises(UsageError, match="is no cache as HDF5"):
        to_hdf5(tiny_root, tmp_path / "text.h5")
    assert killed_at(12, lambda: to_hdf5(tiny_root, tmp_path / "d.h5"))
    with pytest.raises(CacheMismatchError, match="a file of another cache"):
        to_hdf5(groups_root, tmp_path / "d.h5")


def test_a_damaged_cache_is_found(cache_copy: Path, tmp_path: Path) -> None:
    flip_bit(cache_copy / GROUP / "blocks-1-patch-fp16" / "train-000001.tar", 5000)
    before = file_hashes(cache_copy)
    with pytest.raises(CorruptCacheError, match=r"train-000001\.tar: bytes differ"):
        to_hdf5(cache_copy, tmp_path / "c.h5")
    (cache_copy / GROUP / "manifest.sha256").write_text("no\n")
    with pytest.raises(CacheMismatchError, match=f"group {GROUP} cannot be used"):
        to_hdf5(cache_copy, tmp_path / "d.h5")
    assert {name: each for name, each in file_hashes(cache_copy).items() if "sha256" not in name} == {
        name: each for name, each in before.items() if "sha256" not in name
    }
