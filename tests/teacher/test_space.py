import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from kdcache.cache import Cache
from kdcache.errors import DiskFullError
from kdcache.teacher.extract import extract
from tests.conftest import tiny_extract

Usage = namedtuple("Usage", "total used free")


def test_a_disk_too_small_is_refused_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(DiskFullError, match=r"GB are still to be written, 0.00 GB are free"):
        extract(tiny_extract(tmp_path / "c"))
    assert not (tmp_path / "c" / "samples").exists()
    extract(tiny_extract(tmp_path / "c", check_space=False))


def test_the_estimate_is_close(
    tiny_cache: Cache, tiny_root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither an alarm for nothing nor a disk that fills up: columns are exact, the rest is a small allowance."""
    from kdcache.teacher import space

    seen: list[int] = []
    original = space.estimate_bytes
    monkeypatch.setattr(space, "estimate_bytes", lambda *a: seen.append(original(*a)) or seen[-1])
    extract(tiny_extract(tmp_path / "c"))
    parts = ["samples", *(column.name for column in tiny_cache.columns)]
    written = sum(tiny_cache.manifest.part_bytes(part) for part in parts)
    assert written * 0.95 < seen[0] < written * 1.3
