"""A folder of object storage: whole files by their hashes, and who comes second."""

import hashlib
import pickle
from pathlib import Path

import pytest

from kdcache.errors import CorruptCacheError, ShardConflictError
from kdcache.remote import Content, RemoteFolder, RemoteUrl, Staging


def content(data: bytes) -> Content:
    return Content(hashlib.sha256(data).hexdigest(), len(data))


@pytest.fixture
def folder(bucket: str) -> RemoteFolder:
    return RemoteFolder(RemoteUrl.parse(f"{bucket}/caches/one"), Staging.default())


def test_a_file_goes_there_and_comes_back(folder: RemoteFolder, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"tar")
    folder.create("samples/x.tar", tmp_path / "x.tar")
    lease = folder.hold("samples/x.tar", content(b"tar"))
    assert lease.path.read_bytes() == b"tar"
    assert lease.path == folder.staged("samples/x.tar", content(b"tar"))
    assert lease.path.suffix == ".tar"
    assert (folder / "samples").read("x.tar") == b"tar"


def test_whoever_comes_second_compares(folder: RemoteFolder) -> None:
    folder.create("a", b"one")
    folder.create("a", b"one")
    with pytest.raises(ShardConflictError, match=r"s3://.*/caches/one/a: another job wrote other bytes"):
        folder.create("a", b"two")
    assert folder.read("a") == b"one"


def test_damage_is_found_before_use(folder: RemoteFolder) -> None:
    folder.create("a", b"one")
    for wanted, problem in ((content(b"two"), "bytes differ"), (content(b"four"), "3 bytes found, 4 wanted")):
        with pytest.raises(CorruptCacheError, match=f"/caches/one/a: {problem}"):
            folder.hold("a", wanted)
    with pytest.raises(CorruptCacheError, match="/caches/one/b: missing"):
        folder.hold("b", content(b"two"))


def test_listings_know_what_was_created_since(folder: RemoteFolder) -> None:
    assert folder.entries("index") == {}
    folder.create("index/a.h5", b"1")
    assert set(folder.entries("index")) == {"a.h5"}
    folder.replace("index/b.h5", b"1")
    assert set(folder.entries("index")) == {"a.h5"}
    folder.refresh()
    assert set(folder.entries("index")) == {"a.h5", "b.h5"}
    assert folder.list() == ({}, ["index"])


def test_listings_forget_what_was_moved_or_removed(folder: RemoteFolder) -> None:
    folder.create("part/a", b"1")
    folder.create("part/b", b"2")
    assert set(folder.entries("part")) == {"a", "b"}
    folder.move("part/a", "other/a")
    assert (set(folder.entries("part")), set(folder.entries("other"))) == ({"b"}, {"a"})
    folder.remove("part/b")
    assert folder.entries("part") == {}


def test_a_file_without_a_hash_is_known_by_what_the_service_says(folder: RemoteFolder) -> None:
    folder.create("t.tar", b"first")
    one = folder.find("t.tar")
    assert one is not None
    first = folder.hold_as_is("t.tar", one)
    folder.replace("t.tar", b"other")
    two = folder.find("t.tar")
    assert two is not None
    second = folder.hold_as_is("t.tar", two)
    assert (first.path.read_bytes(), second.path.read_bytes()) == (b"first", b"other")


def test_another_process_opens_its_own_connections(folder: RemoteFolder) -> None:
    folder.create("a", b"one")
    assert pickle.loads(pickle.dumps(folder)).read("a") == b"one"
