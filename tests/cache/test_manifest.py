import json
from pathlib import Path

import msgspec
import pytest

from kdcache.cache import BaseFingerprint, BaseManifest, Cache, GroupFingerprint
from kdcache.cache.manifest import (
    FORMAT_VERSION,
    differences,
    fingerprint_bytes,
    fingerprint_digest,
    known_fingerprint,
    read_fingerprint,
    read_manifest,
    write_manifest,
)
from kdcache.cache.paths import CachePaths
from kdcache.errors import CacheMismatchError, CorruptCacheError, IncompleteCacheError, Remedy
from tests.cache.support import rewrite_manifest
from tests.conftest import GROUP


def test_it_is_written_and_read_back(tiny_cache: Cache, tmp_path: Path) -> None:
    paths = CachePaths(tmp_path)
    digest = write_manifest(paths, tiny_cache.manifest)
    assert read_manifest(paths, BaseManifest) == (tiny_cache.manifest, digest)
    assert known_fingerprint(paths, BaseFingerprint) == tiny_cache.manifest.fingerprint
    assert digest == tiny_cache.digest


def test_every_changed_byte_is_noticed(cache_copy: Path) -> None:
    paths = CachePaths(cache_copy)
    data = paths.manifest.read_bytes()
    for position in range(0, len(data), 97):
        changed = bytearray(data)
        changed[position] ^= 1
        paths.manifest.write_bytes(changed)
        with pytest.raises(CorruptCacheError, match="sha256"):
            read_manifest(paths, BaseManifest)


def test_a_missing_digest_is_noticed(cache_copy: Path) -> None:
    CachePaths(cache_copy).manifest_digest.unlink()
    with pytest.raises(CorruptCacheError, match="says nothing"):
        read_manifest(CachePaths(cache_copy), BaseManifest)


def test_no_manifest_is_an_unfinished_extraction(tmp_path: Path) -> None:
    with pytest.raises(IncompleteCacheError, match="has not finished"):
        read_manifest(CachePaths(tmp_path), BaseManifest)


@pytest.mark.parametrize(("version", "remedy"), [(FORMAT_VERSION + 1, Remedy.UPDATE), (0, Remedy.EXTRACT_ELSEWHERE)])
def test_other_format_versions_say_what_to_do(cache_copy: Path, version: int, remedy: Remedy) -> None:
    paths = CachePaths(cache_copy)
    rewrite_manifest(paths, lambda m: m["fingerprint"].update(format_version=version, something_new=1))
    with pytest.raises(CacheMismatchError, match=f"cache format {version}, this kdcache reads") as caught:
        read_manifest(paths, BaseManifest)
    assert caught.value.remedy is remedy


@pytest.mark.parametrize("text", ["[]", "{}", '{"fingerprint": 1}', "not json", '{"a": 1, "a": 2}'])
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    import hashlib

    paths = CachePaths(tmp_path)
    paths.manifest.write_text(text)
    paths.manifest_digest.write_text(hashlib.sha256(text.encode()).hexdigest())
    with pytest.raises(CorruptCacheError, match=r"manifest\.json"):
        read_manifest(paths, BaseManifest)


def test_differences_name_the_field_and_both_values(tiny_cache: Cache) -> None:
    fingerprint = tiny_cache.groups[GROUP].manifest.fingerprint
    value = msgspec.to_builtins(fingerprint)
    value["teacher"]["weights_sha256"] = "0" * 64
    value["batch_size"] = 7
    value["columns"][0]["tap"] = "blocks.0/patch"
    other = read_fingerprint(json.dumps(value).encode(), GroupFingerprint, where="test")
    found = differences(fingerprint, other)
    assert len(found) == 3
    assert any(line.startswith("teacher.weights_sha256: the cache has ") for line in found)
    assert any("batch_size: the cache has 6, this run wants 7" in line for line in found)
    assert any("columns.blocks-1-patch-fp16.tap" in line for line in found)
    assert differences(fingerprint, fingerprint) == []


def test_other_columns_are_one_line(tiny_cache: Cache) -> None:
    fingerprint = tiny_cache.groups[GROUP].manifest.fingerprint
    value = msgspec.to_builtins(fingerprint)
    value["columns"] = value["columns"][:2]
    value["columns"][0] |= {"name": "blocks-1-patch-bf16-again", "codec": "bf16"}
    other = read_fingerprint(json.dumps(value).encode(), GroupFingerprint, where="test")
    [line] = differences(fingerprint, other)
    assert line.startswith("columns: the cache has blocks-1-patch-fp16, blocks-1-patch-int8, ")
    assert line.endswith(", this run wants blocks-1-patch-bf16-again, blocks-1-patch-int8")


def test_a_fingerprint_has_one_spelling(tiny_cache: Cache) -> None:
    base = tiny_cache.manifest.fingerprint
    data = fingerprint_bytes(base)
    assert read_fingerprint(data, BaseFingerprint, where="test") == base
    assert fingerprint_bytes(read_fingerprint(data, BaseFingerprint, where="test")) == data
    assert tiny_cache.groups[GROUP].manifest.fingerprint.base == fingerprint_digest(base)


def test_it_holds_no_path_and_no_time(tiny_root: Path) -> None:
    """Equal plans must give equal bytes anywhere, and a manifest must not point outside its cache."""
    for path in (tiny_root / "manifest.json", tiny_root / GROUP / "manifest.json"):
        text = path.read_text()
        assert str(tiny_root) not in text
        assert "://" not in text
