import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from kdcache.cache import Cache, open_cache
from kdcache.cache.index import index_bytes, read_index
from kdcache.cache.paths import CachePaths
from kdcache.cache.verify import Fault, verify_shard, verify_whole
from kdcache.errors import Remedy
from tests.conftest import flip_bit


def all_faults(root: Path) -> list[Fault]:
    cache = open_cache(root)
    faults = [fault for shard in cache.manifest.shards for fault in verify_shard(cache, shard)]
    return faults + list(verify_whole(cache))


def forge(root: Path, shard: str, part: str, data: bytes) -> None:
    """Replace a file and make index and manifest agree with it: only its content is wrong."""
    paths = CachePaths(root)
    path = paths.shard(part, shard)
    path.chmod(0o644)
    path.write_bytes(data)
    index_path = paths.shard("index", shard)
    index = read_index(index_path)
    facts = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    manifest = json.loads(paths.manifest.read_bytes())
    entry = next(each for each in manifest["shards"] if each["name"] == shard)
    if part != "index":
        index.files[part] = type(index.files[part])(**facts)
        index_path.chmod(0o644)
        index_path.write_bytes(index_bytes(index))
    entry["files"][part] = facts
    again = index_path.read_bytes()
    entry["files"]["index"] = {"sha256": hashlib.sha256(again).hexdigest(), "size_bytes": len(again)}
    text = json.dumps(manifest).encode()
    paths.manifest.write_bytes(text)
    paths.manifest_digest.write_text(hashlib.sha256(text).hexdigest())


def test_a_good_cache_has_no_faults(tiny_root: Path) -> None:
    assert all_faults(tiny_root) == []


def test_a_flipped_bit_names_shard_key_and_remedy(cache_copy: Path) -> None:
    cache = open_cache(cache_copy)
    column = cache.find_column(kind="patch", codec="fp16")
    index = cache.index(cache.manifest.shards[1])
    strided = cache.strided(column, cache.manifest.shards[1])
    flip_bit(strided.path, strided.payload_offset(5) + 3)
    [fault] = all_faults(cache_copy)
    assert (fault.shard, fault.part, fault.key) == ("train-000001", column.name, index.key(2))
    assert "view 1" in fault.problem
    assert fault.remedy is Remedy.REPAIR
    assert str(fault).startswith(f"train-000001 {column.name} key '{index.key(2)}': view 1 bytes differ")


def test_every_flipped_bit_is_found(cache_copy: Path) -> None:
    """Random places all over the cache: none goes by."""
    random = np.random.default_rng(0)
    files = [path for path in cache_copy.rglob("*") if path.is_file() and "job" not in path.parts]
    named = [path for path in files if path.parent != cache_copy]
    for _ in range(40):
        path = named[int(random.integers(len(named)))]
        position = int(random.integers(path.stat().st_size))
        flip_bit(path, position)
        assert all_faults(cache_copy), f"{path} at {position}"
        flip_bit(path, position)
    assert all_faults(cache_copy) == []


@pytest.mark.parametrize("part", ["samples", "index", "ledger", "blocks-1-patch-int8"])
def test_missing_and_truncated_files(cache_copy: Path, part: str) -> None:
    path = CachePaths(cache_copy).shard(part, "train-000000")
    path.chmod(0o644)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert {fault.part for fault in all_faults(cache_copy) if fault.shard == "train-000000"} == {part}
    path.unlink()
    assert any("missing" in fault.problem for fault in all_faults(cache_copy))


def test_strangers_in_the_folder(cache_copy: Path) -> None:
    (cache_copy / "samples" / "train-000099.tar").touch()
    (cache_copy / "more").mkdir()
    problems = [str(fault) for fault in all_faults(cache_copy)]
    assert len(problems) == 2
    assert all("no manifest names this" in problem for problem in problems)


def test_many_damaged_records_are_counted_not_all_listed(cache_copy: Path) -> None:
    cache = open_cache(cache_copy)
    strided = cache.strided(cache.find_column(kind="patch", codec="fp16"), cache.manifest.shards[0])
    for record in range(9):
        flip_bit(strided.path, strided.payload_offset(record))
    faults = all_faults(cache_copy)
    assert len(faults) == 6
    assert "4 more records" in faults[-1].problem


def test_values_that_are_not_finite_are_found_whatever_the_hashes_say(cache_copy: Path) -> None:
    cache = open_cache(cache_copy)
    strided = cache.strided(cache.find_column(kind="patch", codec="fp32"), cache.manifest.shards[0])
    data = bytearray(strided.path.read_bytes())
    start = strided.payload_offset(4)
    data[start : start + 4] = np.float32("nan").tobytes()
    import zlib

    index_path = cache.paths.shard("index", "train-000000")
    index = read_index(index_path)
    payload = bytes(data[start : start + strided.layout.payload_bytes])
    index.columns["blocks-0-patch-fp32"].crc32[4] = zlib.crc32(payload)
    index_path.chmod(0o644)
    index_path.write_bytes(index_bytes(index))
    forge(cache_copy, "train-000000", "blocks-0-patch-fp32", bytes(data))
    [fault] = all_faults(cache_copy)
    assert "NaN" in fault.problem


def test_impossible_top_k_indices_are_found(cache_copy: Path) -> None:
    cache = open_cache(cache_copy)
    strided = cache.strided(cache.find_column(kind="logits", codec="topk"), cache.manifest.shards[0])
    data = bytearray(strided.path.read_bytes())
    data[strided.payload_offset(0)] = 200
    forge(cache_copy, "train-000000", "head-logits-topk3", bytes(data))
    assert any("bytes differ" in fault.problem for fault in all_faults(cache_copy))


def test_samples_that_contradict_the_index(cache_copy: Path, tiny_cache: Cache) -> None:
    path = CachePaths(cache_copy).shard("samples", "train-000000")
    data = path.read_bytes()
    forge(cache_copy, "train-000000", "samples", data.replace(b'"orientation":1', b'"orientation":2', 1))
    [fault] = all_faults(cache_copy)
    assert fault.key == tiny_cache.index(tiny_cache.manifest.shards[0]).key(0)
    assert "index" in fault.problem


def test_shards_of_two_caches_do_not_mix(cache_copy: Path) -> None:
    """A whole shard appears twice: hashes are right, keys are not."""
    paths = CachePaths(cache_copy)
    parts = [path.name for path in cache_copy.iterdir() if path.is_dir() and path.name != "job"]
    for part in parts:
        forge(cache_copy, "train-000001", part, paths.shard(part, "train-000000").read_bytes())
    problems = [fault.problem for fault in all_faults(cache_copy)]
    assert any("also in shard train-000000" in problem for problem in problems)
    assert any("not the ones of the plan" in problem for problem in problems)
