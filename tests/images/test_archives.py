import errno
import multiprocessing
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kdcache.errors import DiskFullError, SourceError
from kdcache.images import Source, archives, open_source
from kdcache.images.archives import Archives
from tests.images.support import write_tar

# More tars than a process may have open files, read twice in another order, by several threads.
_MANY = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
from kdcache.images import open_source
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
source = open_source(sys.argv[1])
with ThreadPoolExecutor(4) as pool:
    read = list(pool.map(source.read, [*range(200), *range(199, -1, -1)]))
assert read == [str(n).encode() for n in [*range(200), *range(199, -1, -1)]]
"""


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_open_files_are_bounded(tmp_path: Path, suffix: str) -> None:
    for number in range(200):
        write_tar(
            tmp_path / f"t-{number:03d}.tar{suffix}",
            {f"{number}.jpg": str(number).encode()},
            "w" + suffix.replace(".", ":"),
        )
    done = subprocess.run(
        [sys.executable, "-c", _MANY, str(tmp_path / f"t-*.tar{suffix}")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def read_all(source: Source, answers: Any) -> None:
    answers.put([source.read(position) for position in range(len(source.images))])


@pytest.mark.parametrize("start", ["spawn", "forkserver", "fork"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_source_reads_in_another_process(tmp_path: Path, start: str, suffix: str) -> None:
    """A descriptor is a number that means nothing, or another file, in a process that was spawned."""
    paths = [tmp_path / f"{name}.tar{suffix}" for name in "ab"]
    for path in paths:
        write_tar(path, {f"{path.name[0]}{number}.jpg": path.name[:1].encode() * 700 for number in range(3)},
                  "w" + suffix.replace(".", ":"))  # fmt: skip
    source = open_source(f"{paths[0]}::{paths[1]}")
    context = multiprocessing.get_context(start)
    answers = context.Queue()
    child = context.Process(target=read_all, args=(source, answers))
    child.start()
    assert answers.get(timeout=60) == [b"a" * 700] * 3 + [b"b" * 700] * 3
    child.join()
    assert child.exitcode == 0
    # The child's end closes nothing here.
    assert source.read(0) == b"a" * 700


def test_a_full_temporary_folder_is_no_damaged_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tar(tmp_path / "t.tar.gz", {"a.jpg": b"x"}, "w:gz")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(archives.os, "write", full)
    with pytest.raises(DiskFullError, match=f"no room to unpack it in {tempfile.gettempdir()}.*set TMPDIR"):
        open_source(str(path))


def test_a_tar_that_vanishes_or_may_not_be_read_is_named(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "t.tar", {"a.jpg": b"x"})
    held = Archives([path])
    path.unlink()
    with pytest.raises(SourceError, match=r"t.tar: cannot be read \(No such file"):
        held.size(0)


def test_threads_share_tars_that_come_and_go(tmp_path: Path) -> None:
    paths = [write_tar(tmp_path / f"{number}.tar", {"a.jpg": b"%02d" % number}) for number in range(40)]
    held = Archives(paths)

    def read(number: int, held: Archives = held) -> bytes:
        return held.read(number % 40, 512, 2)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, range(2000))) == [b"%02d" % (number % 40) for number in range(2000)]
    before = len(list(Path("/proc/self/fd").iterdir()))
    read.__defaults__ = None
    del held
    assert len(list(Path("/proc/self/fd").iterdir())) < before
