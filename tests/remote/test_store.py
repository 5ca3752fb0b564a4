"""Objects of a bucket: created once, whole or not at all, whatever the network does."""

import hashlib
import os
from pathlib import Path

import pytest

from kdcache.errors import CorruptCacheError, StorageError
from kdcache.remote.store import RANGE_BYTES, Entry, ObjectStore
from kdcache.remote.url import RemoteUrl
from tests.object_storage import Faults, fault_proxy


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def store(bucket: str) -> ObjectStore:
    return ObjectStore(RemoteUrl.parse(bucket))


def test_an_object_is_created_once(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"one")
    assert store.create("a/b.tar", tmp_path / "file", sha256(b"one"))
    assert not store.create("a/b.tar", b"two", sha256(b"two"))
    assert store.read("a/b.tar") == b"one"
    assert store.sha256("a/b.tar", 3) == sha256(b"one")
    found = store.find("a/b.tar")
    assert found is not None
    assert found.size_bytes == 3


def test_what_is_not_there(store: ObjectStore) -> None:
    assert store.find("a") is None
    assert store.read("a") is None
    assert store.list("nothing") == ({}, [])
    with pytest.raises(CorruptCacheError, match="0 of 10 bytes"):
        list(store.pieces("a", 10))


def test_an_object_is_moved_with_its_hash_and_removed(store: ObjectStore) -> None:
    store.create("a", b"one", sha256(b"one"))
    store.create("there", b"two", sha256(b"two"))
    for _ in range(2):  # the second finds nothing left to do
        store.move("a", "there")
        assert (store.find("a"), store.read("there")) == (None, b"one")
        assert store.sha256("there", 3) == sha256(b"one")
    for _ in range(2):
        store.remove("there")
        assert store.find("there") is None


def test_one_level_is_listed(store: ObjectStore) -> None:
    for key in ("a/x", "a/y", "a/b/z", "ab/x"):
        store.create(key, b"1", sha256(b"1"))
    objects, folders = store.list("a")
    assert sorted(objects) == ["x", "y"]
    assert folders == ["b"]


def test_only_the_object_that_was_seen_is_replaced(store: ObjectStore) -> None:
    store.create("plan", b"1", sha256(b"1"))
    seen = store.find("plan")
    assert seen is not None
    assert store.replace("plan", b"2", known=seen)
    assert not store.replace("plan", b"3", known=seen)
    assert store.read("plan") == b"2"
    assert store.replace("plan", b"4")


def test_large_objects_come_in_pieces(store: ObjectStore, tmp_path: Path) -> None:
    data = os.urandom(2 * RANGE_BYTES + 5)
    store.create("big", data, sha256(data))
    with (tmp_path / "copy").open("w+b") as file:
        store.download("big", len(data), file.fileno(), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    assert store.read("big") == data


def test_a_shorter_object_is_no_object(store: ObjectStore) -> None:
    store.create("short", b"1234", sha256(b"1234"))
    with pytest.raises(CorruptCacheError, match="4 of 9 bytes"):
        list(store.pieces("short", 9))


def test_bytes_that_are_not_those_uploaded_are_refused(store: ObjectStore) -> None:
    store.create("lie", b"1234", sha256(b"5678"))
    with pytest.raises(CorruptCacheError, match="differ from those uploaded"):
        store.read("lie")


def test_a_missing_bucket_and_a_refused_key_say_so(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    other = ObjectStore(RemoteUrl.parse("s3://no-such-bucket-of-anybody/x"))
    with pytest.raises(StorageError, match="is there such a bucket"):
        other.create("a", b"1", sha256(b"1"))
    with pytest.raises(StorageError, match="cannot list"):
        other.list("x")


@pytest.mark.parametrize("text", ["never", "0", "-1"])
def test_a_time_limit_must_be_one(store: ObjectStore, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDCACHE_REMOTE_TIMEOUT", text)
    with pytest.raises(StorageError, match=f"KDCACHE_REMOTE_TIMEOUT is '{text}'"):
        store.find("a")


@pytest.mark.slow
def test_a_server_that_is_not_there_is_given_up(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("KDCACHE_REMOTE_TIMEOUT", "0.2")
    with pytest.raises(StorageError, match="cannot look for") as refused:
        ObjectStore(RemoteUrl.parse(bucket)).find("a")
    assert "the-secret-of-the-tests" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_requests_that_fail_and_stall_are_made_again(
    bucket: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A third of all requests fail, one in ten stalls: every object is there once and comes back whole."""
    faults = Faults(failing=0.33, stalling=0.1, stall_s=1.0, seed=4)
    with fault_proxy(s3_endpoint, faults) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy)
        monkeypatch.setenv("KDCACHE_REMOTE_TIMEOUT", "0.5")
        store = ObjectStore(RemoteUrl.parse(bucket))
        for number in range(12):
            data = bytes([number]) * (1000 + number)
            # Where the answer of the first request was lost, the second finds the object there.
            store.create(f"o/{number}", data, sha256(data))
            assert store.find(f"o/{number}") == Entry(len(data), f'"{hashlib.md5(data).hexdigest()}"')
            assert store.read(f"o/{number}") == data
    assert {"500", "503", "reset", "lost answer", "cut", "stall"} <= set(faults.done), faults.done
