import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from kdcache.cache import open_cache
from kdcache.errors import DiskFullError
from kdcache.teacher import space
from kdcache.teacher.extract import extract
from tests.conftest import GROUP, tiny_add, tiny_extract

Usage = namedtuple("Usage", "total used free")


def test_a_disk_too_small_is_refused_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(DiskFullError, match=r"GB are still to be written, 0.00 GB are free"):
        extract(tiny_extract(tmp_path / "c"))
    assert not (tmp_path / "c" / "samples").exists()
    extract(tiny_extract(tmp_path / "c", check_space=False))


@pytest.mark.parametrize("adds", [False, True])
def test_the_estimate_is_close(groups_root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, adds: bool) -> None:
    """Neither an alarm for nothing nor a disk that fills up: columns are exact, the rest is a small allowance."""
    cache = open_cache(groups_root)
    seen: list[int] = []
    original = space.estimate_bytes
    extract(tiny_extract(tmp_path / "c")) if adds else None
    monkeypatch.setattr(space, "estimate_bytes", lambda *a: seen.append(original(*a)) or seen[-1])
    extract(tiny_add(tmp_path / "c", pixels="raw") if adds else tiny_extract(tmp_path / "c"))
    groups = [cache.groups[name] for name in (("wide", "pixels") if adds else (GROUP,))]
    written = sum(group.manifest.part_bytes(column.facts.name) for group in groups for column in group.columns) + (
        0 if adds else cache.manifest.part_bytes("samples")
    )
    assert written * 0.95 < seen[0] < written * 1.3
