"""Finished shards to object storage: files before the index, once, and nothing for a cache that lies here."""

from pathlib import Path

import pytest

from kdcache.cache.facts import FileFacts
from kdcache.cache.paths import INDEX, LEDGER, SAMPLES, CachePaths
from kdcache.cache.places import writing_paths
from kdcache.cache.publishing import (
    check_uploaded,
    here,
    publish_manifest,
    publish_note,
    publish_plan,
    publish_shard,
    require_plan,
)
from kdcache.errors import CacheBusyError, CorruptCacheError, ShardConflictError
from kdcache.remote import RemoteFolder, RemoteUrl

PARTS = (SAMPLES, LEDGER)


@pytest.fixture
def paths(bucket: str) -> CachePaths:
    return writing_paths(RemoteUrl.parse(f"{bucket}/c"))


def write(paths: CachePaths, text: str = "") -> None:
    for part in (*PARTS, INDEX):
        path = paths.shard(part, "a")
        path.parent.mkdir(exist_ok=True)
        path.write_text(part + text)


def remote(paths: CachePaths) -> RemoteFolder:
    assert paths.remote is not None
    return paths.remote


def test_a_cache_here_is_left_alone(tmp_path: Path) -> None:
    paths = CachePaths(tmp_path)
    write(paths)
    before = sorted(tmp_path.rglob("*"))
    publish_shard(paths, "a", PARTS)
    publish_plan(paths)
    require_plan(paths)
    publish_note(paths, paths.job / "x")
    publish_manifest(paths, ["x"])
    with here(paths, "a", INDEX) as own:
        assert own is paths
    assert sorted(tmp_path.rglob("*")) == before


def test_the_index_goes_last_and_nothing_stays(paths: CachePaths, monkeypatch: pytest.MonkeyPatch) -> None:
    write(paths)
    order: list[str] = []
    create = RemoteFolder.create

    def noted(self: RemoteFolder, name: str, data: bytes | Path) -> None:
        create(self, name, data)
        order.append(name)

    monkeypatch.setattr(RemoteFolder, "create", noted)
    publish_shard(paths, "a", PARTS)
    assert order[-1] == "index/a.h5"
    assert set(order) == {"samples/a.tar", "ledger/a.json", "index/a.h5"}
    assert not [path for path in paths.root.rglob("*") if path.is_file()]
    with here(paths, "a", INDEX, LEDGER) as own:
        assert own.shard(LEDGER, "a").read_text() == LEDGER
        assert own.size_bytes(SAMPLES, "a") == len(SAMPLES)
    assert not own.root.exists()


def test_an_interrupted_upload_goes_on(paths: CachePaths) -> None:
    write(paths)
    remote(paths).create("samples/a.tar", paths.shard(SAMPLES, "a"))
    publish_shard(paths, "a", PARTS)
    # Killed while it removed what was uploaded.
    path = paths.shard(INDEX, "a")
    path.write_text(INDEX)
    publish_shard(paths, "a", PARTS)
    assert not path.exists()


def test_another_writers_shard_is_not_replaced(paths: CachePaths) -> None:
    remote(paths).create("samples/a.tar", b"others")
    write(paths)
    with pytest.raises(ShardConflictError, match=r"c/samples/a.tar: another job wrote other bytes"):
        publish_shard(paths, "a", PARTS)
    assert remote(paths).read("samples/a.tar") == b"others"
    assert remote(paths).find("index/a.h5") is None


def test_one_plan_at_a_time(paths: CachePaths) -> None:
    paths.job.mkdir(parents=True)
    plan = paths.job / "plan.json"
    plan.write_text("one")
    publish_plan(paths)
    publish_plan(paths)
    require_plan(paths)
    plan.write_text("two")
    with pytest.raises(CacheBusyError, match="another job has begun here with another plan"):
        require_plan(paths)
    publish_plan(paths)
    require_plan(paths)
    assert remote(paths).read("job/plan.json") == b"two"


def test_a_plan_that_changes_meanwhile_is_not_replaced(paths: CachePaths, monkeypatch: pytest.MonkeyPatch) -> None:
    paths.job.mkdir(parents=True)
    (paths.job / "plan.json").write_text("mine")
    remote(paths).replace("job/plan.json", b"one")
    read = RemoteFolder.read

    def overtaken(self: RemoteFolder, name: str) -> bytes | None:
        found = read(self, name)
        self.replace("job/plan.json", b"two")
        return found

    monkeypatch.setattr(RemoteFolder, "read", overtaken)
    with pytest.raises(CacheBusyError):
        publish_plan(paths)
    monkeypatch.undo()


def test_manifests_and_notes(paths: CachePaths) -> None:
    for name in ("x.json", "manifest.sha256", "manifest.json"):
        (paths.root / name).write_text(name)
    publish_manifest(paths, ["x.json"])
    publish_manifest(paths, ["x.json"])
    (paths.root / "manifest.json").write_text("other")
    with pytest.raises(ShardConflictError):
        publish_manifest(paths, [])
    publish_note(paths, paths.root / "manifest.json")
    assert remote(paths).read("manifest.json") == b"other"


def test_a_finished_file_is_compared_before_it_goes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"1")
    facts = FileFacts.read(tmp_path / "x")
    check_uploaded(tmp_path / "x", facts)
    (tmp_path / "x").write_bytes(b"2")
    with pytest.raises(CorruptCacheError, match="bytes differ from those that its index names"):
        check_uploaded(tmp_path / "x", facts)
