import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

from kdcache.cache.record import RecordLayout
from kdcache.errors import CorruptCacheError, UsageError
from kdcache.stream import gather as module
from kdcache.stream.gather import KeepOn, OpenFile, choose_access, describe, gather

WAYS = ["map", "read"]
needs_extension = pytest.mark.skipif(module._gather is None, reason="the C extension was not built here")
SIZE = 1 << 20


@pytest.fixture
def path(tmp_path: Path, random: np.random.Generator) -> Path:
    path = tmp_path / "records.bin"
    path.write_bytes(random.bytes(SIZE))
    return path


def test_the_extension_is_built_where_the_tests_run() -> None:
    """Without it the faster half of this module would go untested in silence."""
    assert module._gather is not None


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 33])
@pytest.mark.parametrize("sizes", [(1,), (2047,), (2048,), (2049, 3), (4099, 394, 64), (24_000,)])
def test_bytes_arrive_where_they_belong(
    path: Path, random: np.random.Generator, way: str, count: int, sizes: tuple[int, ...]
) -> None:
    """Any offset, any alignment of source and destination, and nothing written beside the rows."""
    layout = RecordLayout.structured({f"f{number}": ("|i1", (size,)) for number, size in enumerate(sizes)})
    data = path.read_bytes()
    files = {3: OpenFile.open(path, SIZE, mapped=way == "map"), 5: OpenFile.open(path, SIZE, mapped=way == "map")}
    which = random.choice([3, 5], count)
    offsets = random.integers(0, SIZE - sum(sizes), count)
    whole = [np.full(1 + count * size + 64, 0xAB, np.uint8) for size in sizes]
    into = [each[1 : 1 + count * size].reshape(count, size) for each, size in zip(whole, sizes, strict=True)]
    gather(files, which, offsets, layout.fields, into)
    for row, offset in enumerate(offsets.tolist()):
        for field, rows in zip(layout.fields, into, strict=True):
            start = offset + field.offset
            assert rows[row].tobytes() == data[start : start + field.size_bytes]
    for each, size in zip(whole, sizes, strict=True):
        assert each[0] == 0xAB
        assert (each[1 + count * size :] == 0xAB).all()


@pytest.mark.parametrize("way", WAYS)
def test_a_truncated_file_is_an_error(path: Path, way: str) -> None:
    """With a plain memory map this would be SIGBUS and the end of the trainer."""
    layout = RecordLayout.plain("<f2", (2048,))
    file = OpenFile.open(path, SIZE, mapped=way == "map")
    offsets = np.arange(16) * 65_536
    into = [np.zeros((16, 4096), np.uint8)]
    gather({0: file}, np.zeros(16, np.int64), offsets, layout.fields, into)
    os.truncate(path, 500_000)
    with pytest.raises(CorruptCacheError, match=r"records.bin: .*the file became shorter"):
        gather({0: file}, np.zeros(16, np.int64), offsets, layout.fields, into)
    gather({0: file}, np.zeros(4, np.int64), offsets[:4], layout.fields, [into[0][:4]])


@needs_extension
def test_truncation_while_many_threads_gather(path: Path) -> None:
    layout = RecordLayout.plain("<f2", (2048,))
    errors: list[CorruptCacheError] = []
    started = threading.Barrier(5)

    def work() -> None:
        file = OpenFile.open(path, SIZE, mapped=True)
        into = [np.zeros((64, 4096), np.uint8)]
        offsets = np.arange(64) * 16_384
        started.wait()
        try:
            while True:
                gather({0: file}, np.zeros(64, np.int64), offsets, layout.fields, into)
        except CorruptCacheError as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    started.wait()
    os.truncate(path, 12_345)
    for thread in threads:
        thread.join(30)
    assert len(errors) == 4


@needs_extension
@pytest.mark.parametrize("handler", ["", "import faulthandler; faulthandler.enable()"])
def test_other_bus_errors_are_none_of_our_business(path: Path, handler: str) -> None:
    """Before, after and between gathers, whoever handled SIGBUS still does."""
    script = f"""
        import mmap, os
        import numpy as np
        from pathlib import Path
        {handler}
        from kdcache.cache.record import RecordLayout
        from kdcache.errors import CorruptCacheError
        from kdcache.stream.gather import OpenFile, gather
        path = Path({str(path)!r})
        file = OpenFile.open(path, {SIZE}, mapped=True)
        foreign = mmap.mmap(file.descriptor, {SIZE}, access=mmap.ACCESS_READ)
        os.truncate(path, 100)
        try:
            fields = RecordLayout.plain("|i1", (4096,)).fields
            gather({{0: file}}, np.zeros(1, np.int64), np.array([65536]), fields, [np.zeros((1, 4096), np.uint8)])
        except CorruptCacheError:
            print("caught", flush=True)
        foreign[65536]
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert done.stdout == "caught\n"
    assert done.returncode == -7
    assert ("Fatal Python error: Bus error" in done.stderr) == bool(handler)


@needs_extension
def test_impossible_requests_are_refused() -> None:
    extension = module._gather
    assert extension is not None
    with pytest.raises(ValueError, match="do not fill a buffer"):
        extension.gather(np.zeros(2, np.uint64), ((0, 8, np.zeros(15, np.uint8)),))
    with pytest.raises(ValueError, match="at most 16 fields"):
        extension.gather(np.zeros(0, np.uint64), tuple((0, 0, np.zeros(0, np.uint8)) for _ in range(17)))
    with pytest.raises((BufferError, ValueError, TypeError)):
        extension.gather(np.zeros(1, np.uint64), ((0, 1, b"x"),))
    with pytest.raises(OSError, match="Bad file descriptor"):
        extension.map_file(-1, 4096)


@pytest.mark.parametrize("mapped", [True, False])
def test_populating_reads_as_long_as_it_may(path: Path, mapped: bool) -> None:
    file = OpenFile.open(path, SIZE, mapped=mapped)
    file.populate(KeepOn())
    stopped = KeepOn()
    stopped.stop()
    assert not stopped
    file.populate(stopped)


def test_links_and_missing_files(path: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(UsageError, match="cannot be opened"):
        OpenFile.open(tmp_path / "link", SIZE, mapped=False)
    with pytest.raises(CorruptCacheError, match="vanished while the cache was in use"):
        OpenFile.open(tmp_path / "nothing", SIZE, mapped=False)


def test_an_empty_file_is_not_mapped(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert OpenFile.open(tmp_path / "empty", 0, mapped=True).address == 0


def test_the_way_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_access("auto") == "map"
    assert choose_access("read") == "read"
    assert "streaming stores" in describe("map")
    monkeypatch.setattr(module, "_gather", None)
    assert choose_access("auto") == "read"
    with pytest.raises(UsageError, match="needs the C extension"):
        choose_access("map")
    with pytest.raises(ValueError, match="auto, map or read, got 'fast'"):
        choose_access("fast")  # type: ignore[arg-type]
