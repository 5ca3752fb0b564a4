import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kdcache.cache.cache import Cache
from kdcache.cache.manifest import (
    FORMAT_VERSION,
    Manifest,
    differences,
    fingerprint_bytes,
    read_fingerprint,
    read_manifest,
    write_manifest,
)
from kdcache.cache.paths import CachePaths
from kdcache.errors import CacheMismatchError, CorruptCacheError, IncompleteCacheError


def rewrite(root: Path, change: Any) -> None:
    """Change a manifest and its digest: damage that no hash of its own can find."""
    paths = CachePaths(root)
    value = json.loads(paths.manifest.read_bytes())
    change(value)
    data = json.dumps(value).encode()
    paths.manifest.write_bytes(data)
    import hashlib

    paths.manifest_digest.write_text(hashlib.sha256(data).hexdigest())


def test_it_is_written_and_read_back(tiny_cache: Cache, tmp_path: Path) -> None:
    paths = CachePaths(tmp_path)
    digest = write_manifest(paths, tiny_cache.manifest)
    assert read_manifest(paths) == (tiny_cache.manifest, digest)
    assert digest == tiny_cache.digest


def test_every_changed_byte_is_noticed(cache_copy: Path) -> None:
    paths = CachePaths(cache_copy)
    data = paths.manifest.read_bytes()
    for position in range(0, len(data), 97):
        changed = bytearray(data)
        changed[position] ^= 1
        paths.manifest.write_bytes(changed)
        with pytest.raises(CorruptCacheError, match="sha256"):
            read_manifest(paths)


def test_a_missing_digest_is_noticed(cache_copy: Path) -> None:
    CachePaths(cache_copy).manifest_digest.unlink()
    with pytest.raises(CorruptCacheError, match="says nothing"):
        read_manifest(CachePaths(cache_copy))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(extra=1), "extra"),
        (lambda m: m["fingerprint"].update(batch_size="6"), "batch_size"),
        (lambda m: m["fingerprint"].update(batch_size=6.5), "batch_size"),
        (lambda m: m["shards"][0].update(name="../../etc"), "cannot name"),
        (lambda m: m["shards"][0].update(name="samples"), "cannot name"),
        (lambda m: m["shards"].append(m["shards"][0]), "named twice"),
        (lambda m: m["shards"][0]["files"].update({"../x": m["shards"][0]["files"]["index"]}), "lists"),
        (lambda m: m["shards"][0]["files"].pop("samples"), "lists"),
        (lambda m: m["fingerprint"]["columns"][0].update(name="/abs"), "cannot name"),
    ],
)
def test_hostile_manifests_are_refused(cache_copy: Path, change: Any, message: str) -> None:
    rewrite(cache_copy, change)
    with pytest.raises(CorruptCacheError, match=message):
        read_manifest(CachePaths(cache_copy))


@pytest.mark.parametrize(("version", "remedy"), [(FORMAT_VERSION + 1, "update kdcache"), (0, "older kdcache")])
def test_other_format_versions_say_what_to_do(cache_copy: Path, version: int, remedy: str) -> None:
    rewrite(cache_copy, lambda m: m["fingerprint"].update(format_version=version, something_new=1))
    with pytest.raises(CacheMismatchError, match=remedy):
        read_manifest(CachePaths(cache_copy))


def test_what_is_no_finished_cache(tmp_path: Path, cache_copy: Path) -> None:
    with pytest.raises(IncompleteCacheError, match="no such folder"):
        read_manifest(CachePaths(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(IncompleteCacheError, match="not a cache"):
        read_manifest(CachePaths(tmp_path / "empty"))
    CachePaths(cache_copy).manifest.unlink()
    with pytest.raises(IncompleteCacheError, match="has not finished"):
        read_manifest(CachePaths(cache_copy))


def test_differences_name_the_field_and_both_values(tiny_cache: Cache) -> None:
    fingerprint = tiny_cache.manifest.fingerprint
    value = msgspec.to_builtins(fingerprint)
    value["teacher"]["weights_sha256"] = "0" * 64
    value["views"]["params"]["flip"] = 0.25
    value["columns"][0]["codec"] = "fp32"
    other = read_fingerprint(json.dumps(value).encode(), where="test")
    found = differences(fingerprint, other)
    assert len(found) == 3
    assert any(line.startswith("teacher.weights_sha256: the cache has ") for line in found)
    assert any("views.params.flip: the cache has 0.5, this run wants 0.25" in line for line in found)
    assert any("columns.blocks-1-patch-fp16.codec" in line for line in found)
    assert differences(fingerprint, fingerprint) == []


def test_a_fingerprint_has_one_spelling(tiny_cache: Cache) -> None:
    data = fingerprint_bytes(tiny_cache.manifest.fingerprint)
    assert read_fingerprint(data, where="test") == tiny_cache.manifest.fingerprint
    assert fingerprint_bytes(read_fingerprint(data, where="test")) == data


def test_it_holds_no_path_and_no_time(tiny_root: Path, tiny_cache: Cache) -> None:
    """Equal plans must give equal bytes anywhere, and a manifest must not point outside its cache."""
    text = (tiny_root / "manifest.json").read_text()
    assert str(tiny_root) not in text
    assert "://" not in text
    manifest: Manifest = tiny_cache.manifest
    assert manifest.num_samples == 20
    assert manifest.num_records == 40
    assert manifest.image_modes == {"L": 20}
