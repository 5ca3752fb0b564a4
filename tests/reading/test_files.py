import os
from pathlib import Path

import pytest

from kdcache.cancel import CancelToken
from kdcache.errors import CorruptCacheError, StorageError, UsageError
from kdcache.reading import files
from kdcache.reading.files import OpenFile, ReadMode, choose_access, describe
from tests.reading.conftest import SIZE
from tests.stream.modes import MODES, needs_extension


@pytest.mark.parametrize("mode", MODES)
def test_populating_leaves_the_bytes_alone(path: Path, mode: ReadMode) -> None:
    file = OpenFile.open(path, SIZE, mode)
    file.populate(CancelToken())


@pytest.mark.parametrize("mode", MODES)
def test_exact_reads(path: Path, mode: ReadMode) -> None:
    file = OpenFile.open(path, SIZE, mode)
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
    with pytest.raises(StorageError, match=r"cannot open .*link: Too many levels of symbolic links"):
        OpenFile.open(tmp_path / "link", SIZE, "read")
    with pytest.raises(CorruptCacheError, match="vanished while the cache was in use"):
        OpenFile.open(tmp_path / "nothing", SIZE, "read")


@pytest.mark.parametrize("mode", MODES)
def test_an_empty_file_is_not_mapped(tmp_path: Path, mode: ReadMode) -> None:
    (tmp_path / "empty").touch()
    assert OpenFile.open(tmp_path / "empty", 0, mode).address == 0


def test_what_cannot_be_mapped(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = os.open(tmp_path / "pipe", os.O_RDWR)
    with pytest.raises(UsageError, match=r"cannot be mapped .*access='read'"):
        OpenFile.open(tmp_path / "pipe", 4096, "map")
    os.close(writer)


def test_populating_stops_when_it_is_cancelled(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cancel, pieces = CancelToken(), []

    def advise(descriptor: int, first: int, size: int, advice: int) -> None:
        pieces.append((first, size))
        if len(pieces) == 2:
            cancel.cancel()

    monkeypatch.setattr(files, "_POPULATE_BYTES", SIZE // 4)
    monkeypatch.setattr(os, "posix_fadvise", advise)
    OpenFile.open(path, SIZE, "read").populate(cancel)
    assert pieces == [(0, SIZE // 4), (SIZE // 4, SIZE // 4)]


def test_pages_of_a_file_that_became_shorter_cannot_be_populated(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    address = files.map_file(descriptor, SIZE)
    assert files.populate(address, SIZE)
    os.truncate(path, SIZE // 2)
    assert not files.populate(address + SIZE // 2, 4096)
    os.close(descriptor)


@needs_extension
def test_the_mode_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_access("auto") == choose_access("map") == "map"
    assert choose_access("read") == "read"
    assert "streaming stores" in describe("map")
    monkeypatch.setattr(files, "_gather", None)
    with pytest.raises(UsageError, match="needs the C extension"):
        choose_access("map")
    assert choose_access("auto") == "read"
    with pytest.raises(ValueError, match="auto, map or read, got 'kernel'"):
        choose_access("kernel")
