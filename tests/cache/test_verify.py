from pathlib import Path

import numpy as np
import pytest

from kdcache.cache import Cache, open_cache
from kdcache.cache.paths import CachePaths
from kdcache.errors import Remedy
from tests.cache.support import all_faults, forge, overwrite, rebuild_all, rewrite_manifest
from tests.conftest import GROUP, file_hashes, flip_bit


def test_a_good_cache_has_no_faults(tiny_root: Path, groups_root: Path, jpeg_root: Path) -> None:
    for root in (tiny_root, groups_root, jpeg_root):
        assert all_faults(root) == []


def test_a_flipped_bit_names_shard_group_key_and_remedy(cache_copy: Path) -> None:
    cache = open_cache(cache_copy)
    column = cache.find_column(kind="patch", codec="fp16")
    index = cache.index(cache.manifest.shards[1])
    strided = cache.strided(column, cache.manifest.shards[1])
    flip_bit(strided.path, strided.payload_offset(5) + 3)
    [fault] = all_faults(cache_copy)
    assert (fault.shard, fault.group, fault.part, fault.key) == (
        "train-000001",
        GROUP,
        column.facts.name,
        index.key(2),
    )
    assert fault.problem == "view 1 bytes differ from what was written"
    assert fault.remedy is Remedy.REPAIR
    assert fault.where == f"train-000001 {column.name} key '{index.key(2)}'"


@pytest.mark.parametrize("root", ["groups_root", "jpeg_root"])
@pytest.mark.slow
def test_every_flipped_bit_is_found(root: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Random places all over the cache: none goes by."""
    import shutil

    copy = Path(shutil.copytree(request.getfixturevalue(root), tmp_path / "copy"))
    random = np.random.default_rng(0)
    named = [
        path
        for path in sorted(copy.rglob("*"))
        if path.is_file() and path.suffix in (".tar", ".h5") and "job" not in path.relative_to(copy).parts
    ] + sorted((copy / "ledger").iterdir())
    for _ in range(10):
        path = named[int(random.integers(len(named)))]
        position = int(random.integers(path.stat().st_size))
        flip_bit(path, position)
        assert all_faults(copy), f"{path} at {position}"
        flip_bit(path, position)
    assert all_faults(copy) == []


@pytest.mark.parametrize("part", ["samples", "index", "ledger", f"{GROUP}/blocks-1-patch-int8", f"{GROUP}/index"])
def test_missing_and_truncated_files(cache_copy: Path, part: str) -> None:
    group, _, own = part.rpartition("/")
    paths = CachePaths(cache_copy).group(group) if group else CachePaths(cache_copy)
    path = paths.shard(own, "train-000000")
    path.chmod(0o644)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    found = {(fault.group, fault.part) for fault in all_faults(cache_copy) if fault.shard == "train-000000"}
    assert found == {(group, own)}
    path.unlink()
    assert any("missing" in fault.problem for fault in all_faults(cache_copy))


def test_strangers_in_the_folders(groups_copy: Path) -> None:
    (groups_copy / "samples" / "train-000099.tar").touch()
    (groups_copy / "wide" / "index" / "train-000099.h5").touch()
    (groups_copy / "more").mkdir()
    (groups_copy / "wide" / "more").mkdir()
    found = all_faults(groups_copy)
    assert [fault.where for fault in found] == [
        "samples/train-000099.tar",
        "more",
        "wide/index/train-000099.h5",
        "wide/more",
    ]
    assert {fault.remedy for fault in found} == {Remedy.REMOVE_FILE}
    assert all("no manifest names this" in fault.problem for fault in found)


def test_a_group_of_another_base_is_a_fault_of_its_own(groups_copy: Path) -> None:
    rewrite_manifest(CachePaths(groups_copy).group("wide"), lambda m: m.update(base="ab" * 32))
    [fault] = all_faults(groups_copy)
    assert (fault.group, fault.remedy) == ("wide", Remedy.RESTORE_BASE_OR_DELETE_GROUP)
    assert "made for the base abab" in fault.problem


def test_many_damaged_records_are_counted_not_all_listed(cache_copy: Path) -> None:
    cache = open_cache(cache_copy)
    strided = cache.strided(cache.find_column(kind="patch", codec="fp16"), cache.manifest.shards[0])
    for record in range(9):
        flip_bit(strided.path, strided.payload_offset(record))
    faults = all_faults(cache_copy)
    assert len(faults) == 6
    assert "4 more records" in faults[-1].problem


def test_samples_that_contradict_the_index(cache_copy: Path, tiny_cache: Cache) -> None:
    path = CachePaths(cache_copy).shard("samples", "train-000000")
    data = path.read_bytes()
    forge(cache_copy, "train-000000", "samples", data.replace(b'"orientation":1', b'"orientation":2', 1))
    [fault] = all_faults(cache_copy)
    assert fault.key == tiny_cache.index(tiny_cache.manifest.shards[0]).key(0)
    assert (fault.group, fault.remedy) == ("", Remedy.REBUILD)


def test_an_image_that_is_not_the_sources(cache_copy: Path, tiny_cache: Cache) -> None:
    path = CachePaths(cache_copy).shard("samples", "train-000000")
    index = tiny_cache.index(tiny_cache.manifest.shards[0])
    data = bytearray(path.read_bytes())
    data[int(index.image_offsets[3]) + 20] ^= 1
    forge(cache_copy, "train-000000", "samples", bytes(data))
    [fault] = all_faults(cache_copy)
    assert fault.key.startswith(index.key(3))
    assert "not the source's" in fault.problem


def test_shards_of_two_caches_do_not_mix(cache_copy: Path) -> None:
    """A whole shard of the base appears twice: hashes are right, keys are not."""
    paths = CachePaths(cache_copy)
    forge(cache_copy, "train-000001", "ledger", paths.shard("ledger", "train-000000").read_bytes())
    from kdcache.cache.index import read_index

    def as_first(index: object) -> None:
        first = read_index(paths.shard("index", "train-000000"))
        for name, values in vars(first).items():
            if name != "files":
                setattr(index, name, values)

    forge(cache_copy, "train-000001", "samples", paths.shard("samples", "train-000000").read_bytes(), as_first)
    faults = all_faults(cache_copy)
    problems = [fault.problem for fault in faults]
    assert any("also in shard train-000000" in problem for problem in problems)
    assert any("not the ones of the plan" in problem for problem in problems)
    assert any("wanted 'digit-" in fault.problem and fault.group == GROUP for fault in faults)


@pytest.mark.parametrize("file", ["_info.json", "wids-samples.json", f"{GROUP}/wids-head-logits-fp16.json"])
@pytest.mark.parametrize("damage", ["gone", "garbage", "one bit"])
def test_files_for_other_programs_say_what_the_manifest_says(cache_copy: Path, file: str, damage: str) -> None:
    path, before = cache_copy / file, file_hashes(cache_copy)
    if damage == "one bit":
        flip_bit(path, 40)
    elif damage == "garbage":
        overwrite(path, b"{}")
    else:
        path.unlink()
    [fault] = all_faults(cache_copy)
    assert (fault.part, fault.group, fault.remedy) == (path.name, file.rpartition("/")[0], Remedy.REBUILD)
    rebuild_all(cache_copy)
    assert file_hashes(cache_copy) == before


def test_a_list_of_a_column_that_is_not_there(cache_copy: Path) -> None:
    (cache_copy / GROUP / "wids-gone.json").touch()
    [fault] = all_faults(cache_copy)
    assert (fault.part, fault.remedy) == ("wids-gone.json", Remedy.REMOVE_FILE)
