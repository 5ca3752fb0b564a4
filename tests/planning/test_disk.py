import tempfile
from pathlib import Path

import pytest

from kdcache.errors import StorageError
from kdcache.planning import disk
from kdcache.planning.disk import disk_rates


def test_both_rates_are_measured_and_nothing_stays(tmp_path: Path) -> None:
    found = disk_rates(tmp_path, 4096, seconds=0.05)
    assert found.write_bytes_per_s > 0
    assert found.read_bytes_per_s > 0
    assert list(tmp_path.iterdir()) == []


def test_a_record_larger_than_the_room_is_still_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "_MOST_BYTES", 10)
    assert disk_rates(tmp_path, 1000, seconds=0.0).write_bytes_per_s > 0


def test_what_the_system_refuses_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(StorageError, match=rf"{tmp_path}: no record can be written .*Permission denied"):
        disk_rates(tmp_path, 10, seconds=0.01)
