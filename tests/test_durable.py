import errno
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kdcache import durable
from kdcache.durable import (
    NewFile,
    append_line,
    make_folder,
    remove_stale_temporaries,
    sha256_file,
    write_changed,
    write_file,
)
from kdcache.errors import DiskFullError, KdcacheError, NotWritableError, Remedy, ShardConflictError, StorageError


@contextmanager
def as_another_user() -> Iterator[None]:
    """Root may write everywhere; file permissions bind only others."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with NewFile(path) as file:
        file.write(b"half")
        assert not path.exists()
    assert list(tmp_path.iterdir()) == []
    with NewFile(path) as file:
        file.write(b"who")
        file.write(b"le")
        file.commit()
    assert path.read_bytes() == b"whole"
    assert file.sha256 == sha256_file(path)
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_published_files_are_read_only_and_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_file(tmp_path / "shard", b"x", replace=False)
        write_file(tmp_path / "manifest", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "shard").stat().st_mode) == 0o440
    assert stat.S_IMODE((tmp_path / "manifest").stat().st_mode) == 0o640


def test_the_first_writer_wins_and_equal_bytes_are_no_conflict(tmp_path: Path) -> None:
    path = tmp_path / "shard"
    write_file(path, b"same", replace=False)
    inode = path.stat().st_ino
    write_file(path, b"same", replace=False)
    assert path.stat().st_ino == inode
    with pytest.raises(ShardConflictError, match="another worker"):
        write_file(path, b"other", replace=False)
    assert path.read_bytes() == b"same"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("exists", [False, True])
def test_file_systems_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exists: bool) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    path = tmp_path / "shard"
    if exists:
        write_file(path, b"same", replace=False)
    monkeypatch.setattr(os, "link", no_links)
    write_file(path, b"same", replace=False)
    assert [each.name for each in tmp_path.iterdir()] == ["shard"]


def test_equal_bytes_are_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_changed(path, b"one")
    first = path.stat()
    write_changed(path, b"one")
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (first.st_ino, first.st_mtime_ns)
    write_changed(path, b"two")
    assert path.read_bytes() == b"two"


def test_the_order_of_the_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is synced after the rename: only then may an index name the file."""
    seen: list[str] = []
    synced: list[bool] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        seen.append("sync folder" if synced[-1] else "sync file")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(durable, "on_step", lambda step, path: seen.append(step))
    write_file(tmp_path / "file", b"x", replace=False)
    assert seen == ["opened", "written", "sync file", "fsynced", "renamed", "sync folder", "committed"]


def test_a_failed_fsync_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: int) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(StorageError, match=r"cannot flush .*file: input/output error") as caught:
        write_file(tmp_path / "file", b"x")
    assert caught.value.remedy is Remedy.CHECK_STORAGE
    assert list(tmp_path.iterdir()) == []


def test_what_only_looks_like_a_temporary_is_left_alone(tmp_path: Path) -> None:
    for name in (".x.tmp", "..tmp", ".a.b.tmp", ".a.host.pid.zz.tmp"):
        (tmp_path / name).touch()
    (tmp_path / f".shard.tar.{durable._host()}.{2**22 + 1}.abcd.tmp").mkdir()
    assert remove_stale_temporaries(tmp_path) == []
    assert len(list(tmp_path.iterdir())) == 5


def test_what_cannot_be_removed_is_named(tmp_path: Path) -> None:
    durable.remove(tmp_path / "nothing")
    (tmp_path / "folder").mkdir()
    with pytest.raises(KdcacheError, match=r"cannot remove .*folder"):
        durable.remove(tmp_path / "folder")


def test_a_full_disk_says_what_is_needed_and_leaves_nothing(tmp_path: Path) -> None:
    """RLIMIT_FSIZE is the full disk that needs no root: EFBIG instead of ENOSPC, the same message."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(DiskFullError, match=r"bytes wanted, \d+ free.*same command again"):
            write_file(tmp_path / "file", b"x" * (3 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.owner() == "root" and parent != Path("/") and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    locked.chmod(0o555)
    with as_another_user(), pytest.raises(NotWritableError, match=r"cannot write into .*locked"):
        make_folder(locked)
    with pytest.raises(NotWritableError, match="cannot create"):
        (tmp_path / "file").touch()
        make_folder(tmp_path / "file" / "below")


def test_leftovers_of_dead_writers_go(tmp_path: Path) -> None:
    mine = NewFile(tmp_path / "mine")
    host = durable._host()
    dead = tmp_path / f".shard.tar.{host}.{2**22 + 1}.abcd{durable.TEMPORARY_SUFFIX}"
    foreign = tmp_path / f".shard.tar.elsewhere.1.abcd{durable.TEMPORARY_SUFFIX}"
    old = tmp_path / f".shard.tar.elsewhere.2.abcd{durable.TEMPORARY_SUFFIX}"
    for path in (dead, foreign, old):
        path.touch()
    os.utime(old, (0, 0))
    assert set(remove_stale_temporaries(tmp_path)) == {dead, old}
    mine.__exit__(None, None, None)
    assert [path.name for path in tmp_path.iterdir()] == [foreign.name]


def test_lines_are_appended(tmp_path: Path) -> None:
    append_line(tmp_path / "log", b"one\n")
    append_line(tmp_path / "log", b"two\n")
    assert (tmp_path / "log").read_bytes() == b"one\ntwo\n"
