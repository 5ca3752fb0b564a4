"""What became of the source since a cache was extracted from it."""

from pathlib import Path

import pytest

from kdcache.cache import open_cache
from kdcache.cli.main import main
from kdcache.errors import Remedy
from kdcache.teacher.extract import extract
from kdcache.teacher.source_faults import source_faults
from tests.cli.advice.of_extraction import photos
from tests.conftest import tiny_extract


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A cache and its source, a folder of class folders."""
    data = photos(tmp_path)
    extract(tiny_extract(tmp_path / "cache", data=str(data), limit=None, views=1))
    return tmp_path / "cache", data


def test_a_source_as_it_was_has_no_faults(folders: tuple[Path, Path]) -> None:
    root, data = folders
    seen: list[int] = []
    cache = open_cache(root)
    assert list(source_faults(cache, str(data), on_image=seen.append)) == []
    assert seen == list(range(1, cache.manifest.num_samples + 1))


def test_changed_and_missing_images_are_named(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    root, data = folders
    changed, gone = sorted(path for path in data.rglob("*") if path.is_file())[:2]
    changed.write_bytes(changed.read_bytes() + b"\0")
    gone.unlink()
    faults = list(source_faults(open_cache(root), str(data)))
    assert sorted(fault.problem.split("' ")[1] for fault in faults) == [
        "has changed since the extraction (sha256)",
        "is not in the source any more",
    ]
    assert {fault.remedy for fault in faults} == {Remedy.RESTORE_FILE}
    assert main(["verify", str(root), "--source", str(data)]) == 1
    shown = capsys.readouterr().out
    assert all(path.relative_to(data).as_posix() in shown for path in (changed, gone))
    assert main(["verify", str(root)]) == 0
