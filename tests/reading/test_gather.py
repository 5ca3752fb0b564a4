import os
import shutil
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdcache.cache.record import RecordLayout
from kdcache.errors import CorruptCacheError
from kdcache.reading.files import OpenFile, ReadMode, _gather
from kdcache.reading.gather import FileTable, RecordPlaces, gather
from tests.reading.conftest import SIZE
from tests.stream.modes import MODES, needs_extension


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler here")
def test_the_extension_is_built_where_it_can_be() -> None:
    """Without it the faster half of this module would go untested in silence."""
    assert _gather is not None


def table_of(path: Path, numbers: tuple[int, ...], count: int, mode: ReadMode) -> FileTable:
    return FileTable({number: OpenFile.open(path, SIZE, mode) for number in numbers}, count)


def every(count: int) -> np.ndarray:
    """Rows of the first samples, view 0."""
    return np.stack([np.arange(count), np.zeros(count, np.int64)], axis=1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 33])
@pytest.mark.parametrize("sizes", [(1,), (2047,), (2048,), (2049, 3), (4099, 394, 64), (24_000,)])
@pytest.mark.parametrize("first", [0, 17, 4090])
def test_bytes_arrive_where_they_belong(
    path: Path, random: np.random.Generator, mode: ReadMode, count: int, sizes: tuple[int, ...], first: int
) -> None:
    """Any offset, any alignment of source and destination, and nothing written beside the rows."""
    layout = RecordLayout.structured({f"f{number}": ("|i1", (size,)) for number, size in enumerate(sizes)})
    data = path.read_bytes()
    stride = sum(sizes) + 13  # odd, so that every alignment occurs
    places = RecordPlaces(np.array([0, 20, 20, 40]), layout.fields, 2, stride, first)
    rows = np.stack([random.integers(0, 40, count), random.integers(0, 2, count)], axis=1)
    whole = [np.full(1 + count * size + 64, 0xAB, np.uint8) for size in sizes]
    into = [each[1 : 1 + count * size].reshape(count, size) for each, size in zip(whole, sizes, strict=True)]
    assert gather(places, table_of(path, (0, 2), 3, mode), rows, into) == []
    for row, (sample, view) in enumerate(rows.tolist()):
        for field, part in zip(layout.fields, into, strict=True):
            start = (sample % 20 * 2 + view) * stride + first + field.offset
            assert part[row].tobytes() == data[start : start + field.size_bytes]
    for each, size in zip(whole, sizes, strict=True):
        assert each[0] == 0xAB
        assert (each[1 + count * size :] == 0xAB).all()


@pytest.mark.parametrize("mode", MODES)
def test_constant_strides_count_views_and_restart_in_every_file(path: Path, mode: ReadMode) -> None:
    layout = RecordLayout.plain("|i1", (100,))
    places = RecordPlaces(np.array([0, 5, 8]), layout.fields, 3, 640, 17)
    rows = np.array([(sample, view) for sample in range(8) for view in range(3)])
    into = [np.zeros((24, 100), np.uint8)]
    assert gather(places, table_of(path, (0, 1), 2, mode), rows, into) == []
    data = path.read_bytes()
    for (sample, view), found in zip(rows.tolist(), into[0], strict=True):
        start = ((sample - (5 if sample >= 5 else 0)) * 3 + view) * 640 + 17
        assert found.tobytes() == data[start : start + 100]


@pytest.mark.parametrize("mode", MODES)
def test_files_that_are_not_open_are_named(path: Path, mode: ReadMode) -> None:
    places = RecordPlaces(np.array([0, 5, 8, 9]), RecordLayout.plain("|i1", (100,)).fields, 1, 640, 0)
    table = table_of(path, (1,), 3, mode)
    assert gather(places, table, every(9), [np.zeros((9, 100), np.uint8)]) == [0, 2]
    assert gather(places, table, every(9)[5:8], [np.zeros((3, 100), np.uint8)]) == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("row", [(-1, 0), (9, 0), (0, -1), (0, 1), (2**62, 0)])
def test_rows_out_of_range_touch_nothing(path: Path, row: tuple[int, int], mode: ReadMode) -> None:
    places = RecordPlaces(np.array([0, 9]), RecordLayout.plain("|i1", (100,)).fields, 1, 640, 0)
    with pytest.raises(IndexError, match="beyond the 9 samples or the 1 views"):
        gather(places, table_of(path, (0,), 1, mode), np.array([row]), [np.zeros((1, 100), np.uint8)])


PAGES = RecordPlaces(np.array([0, 16]), RecordLayout.plain("<f2", (2048,)).fields, 1, 65_536, 0)


@pytest.mark.parametrize("mode", MODES)
def test_a_truncated_file_is_an_error(path: Path, mode: ReadMode) -> None:
    """With a plain memory map this would be SIGBUS and the end of the trainer."""
    table, into = table_of(path, (0,), 1, mode), [np.zeros((16, 4096), np.uint8)]
    assert gather(PAGES, table, every(16), into) == []
    os.truncate(path, 500_000)
    with pytest.raises(CorruptCacheError, match=r"records.bin: .*the file became shorter"):
        gather(PAGES, table, every(16), into)
    assert gather(PAGES, table, every(4), [into[0][:4]]) == []


@needs_extension
def test_truncation_while_many_threads_gather(path: Path) -> None:
    errors: list[CorruptCacheError] = []
    started = threading.Barrier(5)

    def work() -> None:
        table, into = table_of(path, (0,), 1, "map"), [np.zeros((16, 4096), np.uint8)]
        started.wait()
        try:
            while True:
                gather(PAGES, table, every(16), into)
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
        from kdcache.reading.files import OpenFile
        from kdcache.reading.gather import FileTable, RecordPlaces, gather
        path = Path({str(path)!r})
        file = OpenFile.open(path, {SIZE}, "map")
        foreign = mmap.mmap(file.descriptor, {SIZE}, access=mmap.ACCESS_READ)
        os.truncate(path, 100)
        try:
            places = RecordPlaces(np.array([0, 1]), RecordLayout.plain("|i1", (4096,)).fields, 1, 0, 65536)
            gather(places, FileTable({{0: file}}, 1), np.zeros((1, 2), np.int64), [np.zeros((1, 4096), np.uint8)])
        except CorruptCacheError:
            print("caught", flush=True)
        foreign[65536]
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert done.stdout == "caught\n"
    assert done.returncode == -7
    assert ("Fatal Python error: Bus error" in done.stderr) == bool(handler)


@needs_extension
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fields": ((0, 8, np.zeros(15, np.uint8)),)}, "do not fill a buffer"),
        ({"fields": ((-1, 8, np.zeros(16, np.uint8)),)}, "do not fill a buffer"),
        ({"fields": tuple((0, 0, np.zeros(0, np.uint8)) for _ in range(17))}, "at most 16 fields"),
        ({"rows": np.zeros(3, np.int64)}, "do not fit each other"),
        ({"starts": np.zeros(2, np.int64)}, "do not fit each other"),
        ({"bases": np.zeros(0, np.int64)}, "do not fit each other"),
    ],
)
def test_impossible_requests_are_refused(changes: dict[str, Any], message: str) -> None:
    assert _gather is not None
    request: dict[str, Any] = {
        "rows": np.zeros((2, 2), np.int64),
        "starts": np.array([0, 4, 9]),
        "bases": np.zeros(2, np.int64),
        "fields": (),
        **changes,
    }
    arrays = (request[name] for name in ("rows", "starts", "bases"))
    with pytest.raises(ValueError, match=message):
        _gather.gather(*arrays, 1, 512, 0, request["fields"])


@needs_extension
def test_read_only_buffers() -> None:
    assert _gather is not None
    zeros, starts = np.zeros((1, 2), np.int64), np.array([0, 4])
    with pytest.raises((BufferError, ValueError, TypeError)):
        _gather.gather(zeros, starts, np.zeros(1, np.int64), 1, 512, 0, ((0, 1, b"x"),))


@pytest.mark.parametrize("mode", MODES)
def test_the_file_that_shrank_is_the_one_that_is_named(
    tmp_path: Path, random: np.random.Generator, mode: ReadMode
) -> None:
    """Also when the rows of several files are copied side by side."""
    paths = [tmp_path / f"{number}.bin" for number in range(8)]
    for path in paths:
        path.write_bytes(random.bytes(65_536))
    files = {number: OpenFile.open(path, 65_536, mode) for number, path in enumerate(paths)}
    places = RecordPlaces(np.arange(9), RecordLayout.plain("<f2", (2048,)).fields, 1, 0, 32_768)
    os.truncate(paths[5], 100)
    with pytest.raises(CorruptCacheError, match=r"5.bin: .*record at byte 32768"):
        gather(places, FileTable(files, 8), every(8), [np.zeros((8, 4096), np.uint8)])


def test_no_file_at_all_is_open() -> None:
    places = RecordPlaces(np.array([0, 5]), RecordLayout.plain("|i1", (100,)).fields, 1, 640, 0)
    assert gather(places, FileTable({}, 1), every(3), [np.zeros((3, 100), np.uint8)]) == [0]
