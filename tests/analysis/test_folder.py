import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from kdcache.analysis.folder import CURVES, RESULT, read_analysis, write_analysis
from kdcache.cache import Cache
from kdcache.errors import CorruptCacheError, Remedy, UsageError
from tests.analysis.test_run import analysed


def test_what_is_written_is_read(tiny_cache: Cache, tmp_path: Path) -> None:
    analysis, curves = analysed(tiny_cache)
    for _ in range(2):
        write_analysis(tmp_path / "out", analysis, curves)
    found, arrays = read_analysis(tmp_path / "out")
    assert found == analysis
    assert arrays.keys() == curves.keys()
    for name, values in curves.items():
        np.testing.assert_array_equal(arrays[name], values)
    assert list(json.loads((tmp_path / "out" / RESULT).read_bytes())["layers"][0]["ranks"]["per_image"]) == [
        "80", "90", "95", "99",
    ]  # fmt: skip


def test_folders_without_one_other_versions_and_damage(tiny_cache: Cache, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no analysis.json here") as caught:
        read_analysis(tmp_path)
    assert (caught.value.remedy, caught.value.details) == (Remedy.ANALYZE, {"path": tmp_path})
    write_analysis(tmp_path, *analysed(tiny_cache))
    path = tmp_path / RESULT
    good = path.read_bytes()
    path.write_bytes(good.replace(b'"format":2', b'"format":1'))
    with pytest.raises(UsageError, match="format 1, this kdcache reads 2") as caught:
        read_analysis(tmp_path)
    assert caught.value.remedy is Remedy.ANALYZE
    path.write_bytes(good.replace(b'"max_rank":', b'"max_rnak":'))
    with pytest.raises(CorruptCacheError, match="not what was written"):
        read_analysis(tmp_path)
    path.write_bytes(good)
    (tmp_path / CURVES).write_bytes(b"no HDF5")
    with pytest.raises(CorruptCacheError, match="not what was written"):
        read_analysis(tmp_path)


def test_the_curves_are_plain_hdf5(tiny_cache: Cache, tmp_path: Path) -> None:
    write_analysis(tmp_path, *analysed(tiny_cache))
    with h5py.File(tmp_path / CURVES) as file:
        assert np.asarray(file["layers/1/sep/full/mean"]).shape == (24,)
