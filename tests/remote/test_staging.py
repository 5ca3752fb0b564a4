"""The staging folder: bounded, private, shared by processes, and never without a file that is in use."""

import fcntl
import multiprocessing
import os
import threading
import time
from pathlib import Path

import pytest

from kdcache.errors import StorageError
from kdcache.remote import Lease, Staging, staging
from kdcache.remote.staging import parse_size, used_bytes

pytest.importorskip("tenacity", reason="needs tenacity, of kdcache[cloud]")


class Source:
    """Files of one letter each, and how often each was fetched."""

    def __init__(self) -> None:
        self.fetched: list[str] = []

    def hold(self, folder: Staging, name: str, size: int = 1000) -> Lease:
        def fetch(descriptor: int, path: Path) -> None:
            self.fetched.append(name)
            os.pwrite(descriptor, name.encode() * size, 0)

        return folder.hold(name, size, fetch, lambda path: path.read_bytes() == name.encode() * size)


@pytest.fixture
def folder(tmp_path: Path) -> Staging:
    return Staging(tmp_path / "staging", 3000)


def test_a_file_is_fetched_once_and_kept(folder: Staging) -> None:
    source = Source()
    assert source.hold(folder, "a").path.read_bytes() == b"a" * 1000
    assert source.hold(folder, "a").path == folder.path("a")
    assert source.fetched == ["a"]


def test_what_was_used_longest_ago_makes_room(folder: Staging) -> None:
    source = Source()
    for name in "abc":
        source.hold(folder, name)
        time.sleep(0.01)
    source.hold(folder, "a")
    source.hold(folder, "d")
    assert {path.name for path in folder.path("a").parent.iterdir()} == {"a", "c", "d"}
    assert used_bytes(folder.root) == 3000


def test_files_in_use_stay_and_too_many_of_them_are_refused(folder: Staging, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "_PATIENCE_S", 0.3)
    source = Source()
    held = [source.hold(folder, name) for name in "abc"]
    with pytest.raises(StorageError, match=r"1,000 more bytes .* 3,000 .*KDCACHE_STAGING_SIZE"):
        source.hold(folder, "d")
    assert all(lease.path.read_bytes() for lease in held)
    assert not folder.path("d.part").exists()
    held.pop(1)
    source.hold(folder, "d")
    assert {path.name for path in folder.path("a").parent.iterdir()} == {"a", "c", "d"}


def test_whoever_needs_room_waits_for_those_who_soon_let_go(folder: Staging) -> None:
    source = Source()
    held = [source.hold(folder, name) for name in "abc"]
    threading.Timer(0.5, held.clear).start()
    assert source.hold(folder, "d").path.exists()


def test_reserved_room_counts_until_it_is_let_go(folder: Staging, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "_PATIENCE_S", 0.3)
    source, room = Source(), folder.reserve(2500)
    assert used_bytes(folder.root) == 2500
    with pytest.raises(StorageError, match="more bytes"):
        source.hold(folder, "a")
    room.release()  # and not when this name of it goes
    source.hold(folder, "a")
    assert used_bytes(folder.root) == 1000


def test_two_who_want_the_same_fetch_it_once(folder: Staging) -> None:
    began, source, found = threading.Event(), Source(), []

    def slowly(descriptor: int, path: Path) -> None:
        began.set()
        time.sleep(0.3)
        os.pwrite(descriptor, b"a" * 1000, 0)

    first = threading.Thread(target=lambda: found.append(folder.hold("a", 1000, slowly, lambda _: True)))
    first.start()
    began.wait()
    assert source.hold(folder, "a").path.read_bytes() == b"a" * 1000
    first.join()
    assert source.fetched == []
    assert len(found) == 1


def test_a_failed_fetch_leaves_nothing_and_is_tried_again(folder: Staging) -> None:
    def fail(descriptor: int, path: Path) -> None:
        raise StorageError("the network is down")

    with pytest.raises(StorageError, match="network"):
        folder.hold("a", 1000, fail, lambda _: True)
    assert used_bytes(folder.root) == 0
    assert Source().hold(folder, "a").path.exists()


def test_a_file_damaged_since_another_process_fetched_it_is_fetched_again(folder: Staging) -> None:
    source = Source()
    path = source.hold(folder, "a").path
    path.write_bytes(b"b" * 1000)
    assert source.hold(Staging(folder.root, 3000), "a").path.read_bytes() == b"a" * 1000
    path.write_bytes(b"a" * 999)
    assert source.hold(Staging(folder.root, 3000), "a").path.read_bytes() == b"a" * 1000
    assert source.fetched == ["a", "a", "a"]


def _hold_and_wait(root: Path, ready: "multiprocessing.synchronize.Event") -> None:
    lease = Source().hold(Staging(root, 3000), "a")
    ready.set()
    time.sleep(60)
    del lease


def test_another_process_protects_its_files_until_it_is_killed(folder: Staging) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    other = context.Process(target=_hold_and_wait, args=(folder.root, ready), daemon=True)
    other.start()
    assert ready.wait(60)
    source = Source()
    source.hold(folder, "b", 1900)
    source.hold(folder, "c", 1900)
    assert folder.path("a").exists()
    assert not folder.path("b").exists()
    other.kill()
    other.join()
    source.hold(folder, "d", 1900)
    source.hold(folder, "e", 2900)
    assert not folder.path("a").exists()


def test_what_a_killed_process_was_fetching_is_taken_over(folder: Staging) -> None:
    folder.path("a.part").write_bytes(b"x" * 2900)
    assert Source().hold(folder, "a").path.read_bytes() == b"a" * 1000
    folder.path("z.part").write_bytes(b"x" * 1500)
    Source().hold(folder, "b", 1900)
    assert not folder.path("z.part").exists()


def test_nobody_else_may_enter(folder: Staging) -> None:
    inner = folder.path("a").parent
    assert inner.stat().st_mode & 0o777 == 0o700
    inner.chmod(0o755)
    with pytest.raises(StorageError, match="0700"):
        Staging(folder.root, 3000)


def test_the_environment_says_where_and_how_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDCACHE_STAGING", str(tmp_path / "there"))
    monkeypatch.setenv("KDCACHE_STAGING_SIZE", "1.5 GB")
    found = Staging.default()
    assert (found.root, found.max_bytes) == (tmp_path / "there", 1_500_000_000)
    monkeypatch.delenv("KDCACHE_STAGING_SIZE")
    assert 0 < Staging.default().max_bytes <= 100 * 10**9
    monkeypatch.delenv("KDCACHE_STAGING")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert Staging.default().root == tmp_path / "cache" / "kdcache" / "staging"


def test_sizes() -> None:
    assert [parse_size(text) for text in ("7", "2K", "3MB", "1 TB")] == [7, 2000, 3_000_000, 10**12]
    with pytest.raises(StorageError, match="200GB"):
        parse_size("much")


def test_locks_of_files_are_the_kernels(folder: Staging) -> None:
    lease = Source().hold(folder, "a")
    with lease.path.open("rb") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
