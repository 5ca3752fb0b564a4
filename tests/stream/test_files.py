import os
from pathlib import Path

import numpy as np
import pytest

from kdcache.errors import CorruptCacheError, UsageError
from kdcache.stream import files, syscalls
from kdcache.stream.files import KeepOn, OpenFile, Way, choose_access, describe
from tests.stream.ways import WAYS, needs_extension

SIZE = 1 << 20


@pytest.fixture
def path(tmp_path: Path, random: np.random.Generator) -> Path:
    path = tmp_path / "records.bin"
    path.write_bytes(random.bytes(SIZE))
    return path


@pytest.mark.parametrize("way", WAYS)
def test_populating_reads_as_long_as_it_may(path: Path, way: Way) -> None:
    file = OpenFile.open(path, SIZE, way)
    file.populate(KeepOn())
    stopped = KeepOn()
    stopped.stop()
    assert not stopped
    file.populate(stopped)


@pytest.mark.parametrize("way", WAYS)
def test_exact_reads(path: Path, way: Way) -> None:
    file = OpenFile.open(path, SIZE, way)
    found = bytearray(100)
    file.read_exactly([memoryview(found)[:30], memoryview(found)[30:]], 1234, 100)
    assert found == path.read_bytes()[1234:1334]
    with pytest.raises(CorruptCacheError, match=r"records.bin: 10 of 100 bytes found for the record at byte"):
        file.read_exactly([memoryview(found)], SIZE - 10, 100)


def test_short_reads_are_read_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As some network file systems give them."""
    whole = os.preadv

    def short(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        return whole(descriptor, [buffers[0][: max(1, len(buffers[0]) // 2)]], offset)

    monkeypatch.setattr(os, "preadv", short)
    file, found = OpenFile.open(path, SIZE, "read"), bytearray(100)
    file.read_exactly([memoryview(found)[:31], memoryview(found)[31:]], 77, 100)
    assert found == path.read_bytes()[77:177]
    with pytest.raises(CorruptCacheError, match="10 of 100 bytes found"):
        file.read_exactly([memoryview(found)], SIZE - 10, 100)


def test_links_and_missing_files(path: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(UsageError, match="cannot be opened"):
        OpenFile.open(tmp_path / "link", SIZE, "read")
    with pytest.raises(CorruptCacheError, match="vanished while the cache was in use"):
        OpenFile.open(tmp_path / "nothing", SIZE, "read")


@pytest.mark.parametrize("way", WAYS)
def test_an_empty_file_is_not_mapped(tmp_path: Path, way: Way) -> None:
    (tmp_path / "empty").touch()
    assert OpenFile.open(tmp_path / "empty", 0, way).address == 0


def test_what_cannot_be_mapped(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = os.open(tmp_path / "pipe", os.O_RDWR)
    with pytest.raises(UsageError, match=r"cannot be mapped .*access='read'"):
        OpenFile.open(tmp_path / "pipe", 4096, "kernel")
    os.close(writer)


@needs_extension
def test_the_way_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_access("auto") == "map"
    assert choose_access("read") == "read"
    assert "streaming stores" in describe("map")
    monkeypatch.setattr(files, "_gather", None)
    with pytest.raises(UsageError, match="needs the C extension"):
        choose_access("map")
    monkeypatch.setattr(syscalls, "can_copy", lambda: True)
    assert choose_access("auto") == choose_access("kernel") == "kernel"
    monkeypatch.setattr(syscalls, "can_copy", lambda: False)
    assert choose_access("auto") == "read"
    with pytest.raises(UsageError, match="process_vm_readv"):
        choose_access("kernel")
    with pytest.raises(ValueError, match="auto, map, kernel or read, got 'fast'"):
        choose_access("fast")  # type: ignore[arg-type]
