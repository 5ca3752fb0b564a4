from pathlib import Path

import numpy as np
import pytest
import torch

from kdcache.cache import Cache, open_cache
from kdcache.errors import CacheMismatchError, Remedy, UsageError
from kdcache.teacher.extract import extract
from kdcache.teacher.rerun import rerun_teacher
from tests.conftest import GROUP, TEACHER, TEACHER_KWARGS, tiny_extract

CPU = torch.device("cpu")


def test_a_fresh_teacher_agrees(tiny_cache: Cache) -> None:
    results = list(rerun_teacher(tiny_cache, tiny_cache.groups[GROUP], 3, weights=None, data=None, device=CPU))
    assert len(results) == 3 * 2 * 7
    assert all(result.fault() is None for result in results)
    exact = [result.relative_error for result in results if result.column.facts.name == "blocks-0-patch-fp32"]
    assert max(exact) < 1e-5


def test_each_group_has_its_own_teacher(groups_root: Path) -> None:
    """Of another width and precision; stored pixels have none."""
    cache = open_cache(groups_root)
    found = {
        name: list(rerun_teacher(cache, group, 2, weights=None, data=None, device=CPU))
        for name, group in cache.groups.items()
    }
    assert {name: len(results) for name, results in found.items()} == {GROUP: 2 * 2 * 7, "wide": 2 * 2 * 2, "pixels": 0}
    assert all(result.fault() is None for results in found.values() for result in results)


def test_more_images_than_there_are(tiny_cache: Cache) -> None:
    assert (
        len(list(rerun_teacher(tiny_cache, tiny_cache.groups[GROUP], 100, weights=None, data=None, device=CPU)))
        == 20 * 2 * 7
    )


def test_records_of_something_else_are_found(cache_copy: Path) -> None:
    from tests.cache.support import forge

    cache = open_cache(cache_copy)
    column = cache.find_column(kind="patch", codec="fp32")
    strided = cache.strided(column, cache.manifest.shards[0])
    data = bytearray(strided.path.read_bytes())
    start = strided.payload_offset(0)
    values = np.frombuffer(data, "<f4", strided.layout.payload_bytes // 4, start) * np.float32(1.1)
    data[start : start + strided.layout.payload_bytes] = values.tobytes()
    forge(cache_copy, "train-000000", column.name, bytes(data))
    cache = open_cache(cache_copy)
    results = rerun_teacher(cache, cache.groups[GROUP], 1, weights=None, data=None, device=CPU)
    [fault] = [fault for result in results if (fault := result.fault()) is not None]
    assert (fault.group, fault.part, fault.remedy) == (GROUP, column.facts.name, Remedy.OTHER_TEACHER)
    assert "view 0 differs from a fresh teacher by 0.1" in fault.problem


def test_weights_must_be_the_manifests(tmp_path: Path) -> None:
    import timm

    for name in ("a", "b"):
        torch.save(timm.create_model(TEACHER, **TEACHER_KWARGS).state_dict(), tmp_path / f"{name}.pth")
    extract(tiny_extract(tmp_path / "c", teacher_weights=str(tmp_path / "a.pth")))
    cache = open_cache(tmp_path / "c")
    with pytest.raises(UsageError, match="came from a file") as unnamed:
        list(rerun_teacher(cache, cache.groups[GROUP], 1, weights=None, data=None, device=CPU))
    assert unnamed.value.remedy is Remedy.NAME_WEIGHTS
    with pytest.raises(CacheMismatchError, match="these are") as others:
        list(rerun_teacher(cache, cache.groups[GROUP], 1, weights=str(tmp_path / "b.pth"), data=None, device=CPU))
    assert others.value.remedy is Remedy.NAME_WEIGHTS
    assert list(rerun_teacher(cache, cache.groups[GROUP], 1, weights=str(tmp_path / "a.pth"), data=None, device=CPU))
