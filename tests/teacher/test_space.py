import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from kdcache.errors import DiskFullError
from kdcache.teacher import space
from kdcache.teacher.extract import extract
from tests.conftest import TEACHER_KWARGS, tiny_add, tiny_extract

Usage = namedtuple("Usage", "total used free")


def test_a_disk_too_small_is_refused_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(DiskFullError, match=r"GB are still to be written, 0.00 GB are free"):
        extract(tiny_extract(tmp_path / "c"))
    assert not (tmp_path / "c" / "samples").exists()
    extract(tiny_extract(tmp_path / "c", check_space=False))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"taps": ("head/logits",)},
        {"taps": ("blocks.-1/patch", "head/logits"), "limit": 200, "shard_samples": 128, "views": 3},
        {"taps": ("blocks.-1/patch",), "statistics": "light", "images": "reference"},
        {"pixels": "raw", "taps": ("head/logits",)},
        {"pixels": "jpeg", "taps": ("head/logits",), "limit": 40, "shard_samples": 40},
        {"teacher_kwargs": {**TEACHER_KWARGS, "num_classes": 1000}, "taps": ("blocks.-1/patch", "head/logits")},
        {"teacher_kwargs": {**TEACHER_KWARGS, "embed_dim": 384}, "taps": ("head/embedding", "blocks.-1/prefix")},
    ],
    ids=["all taps", "logits", "larger", "light, reference", "raw pixels", "jpeg", "many classes", "embedding"],
)
def test_the_estimate_counts_every_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    """Neither a disk that fills up nor an alarm for nothing."""
    seen = estimates(monkeypatch)
    extract(tiny_extract(tmp_path / "c", **changes))
    assert written(tmp_path / "c") <= seen[0] < 1.4 * written(tmp_path / "c")


def test_an_added_group_is_counted_alone(cache_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, before = estimates(monkeypatch), written(cache_copy)
    extract(tiny_add(cache_copy, pixels="raw"))
    assert written(cache_copy) - before <= seen[0] < 1.4 * (written(cache_copy) - before)


def estimates(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What is estimated from now on."""
    seen: list[int] = []
    original = space.estimate_bytes
    monkeypatch.setattr(space, "estimate_bytes", lambda *a: seen.append(original(*a)) or seen[-1])
    return seen


def written(root: Path) -> int:
    """Bytes of all files of a cache."""
    return sum(
        path.stat().st_size for path in root.rglob("*") if path.is_file() and "job" not in path.relative_to(root).parts
    )
