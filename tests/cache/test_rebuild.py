import shutil
from pathlib import Path

import pytest

from kdcache.cache import open_cache
from kdcache.errors import CacheMismatchError, CorruptCacheError, IncompleteCacheError, Remedy
from tests.cache.support import all_faults, overwrite, rebuild_all, rebuild_only_base, rebuild_only_group
from tests.conftest import GROUP, file_hashes, flip_bit


def without_manifests(root: Path) -> None:
    for path in (*root.glob("manifest.*"), *root.glob("*/manifest.*")):
        path.unlink()


@pytest.mark.parametrize("root", ["groups_root", "jpeg_root"])
def test_manifests_and_readable_indexes_come_back_to_the_byte(
    root: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Fidelity is no longer in the tars: it comes from the old index."""
    copy = Path(shutil.copytree(request.getfixturevalue(root), tmp_path / "copy"))
    before = file_hashes(copy)
    without_manifests(copy)
    rebuild_all(copy)
    assert file_hashes(copy) == before


def test_without_indexes_the_fidelity_is_lost_and_nothing_else(groups_copy: Path, groups_root: Path) -> None:
    wanted = open_cache(groups_root)
    for folder in (groups_copy, *(groups_copy / name for name in wanted.groups)):
        shutil.rmtree(folder / "index")
    without_manifests(groups_copy)
    rebuild_all(groups_copy)
    found = open_cache(groups_copy)
    assert found.digest == wanted.digest
    for name, group in wanted.groups.items():
        for column, summary in group.manifest.columns.items():
            again = found.groups[name].manifest.columns[column]
            assert again.fidelity == {}
            assert summary.fidelity != {}
            assert (again.rms, again.minimum, again.maximum) == (summary.rms, summary.minimum, summary.maximum)
        for shard in wanted.manifest.shards:
            ours, theirs = (cache.group_index(cache.groups[name], shard) for cache in (wanted, found))
            assert ours.files == theirs.files
            for column, index in ours.columns.items():
                index.fidelity = None
                again = theirs.columns[column].arrays()
                assert {key: values.tobytes() for key, values in index.arrays().items()} == {
                    key: values.tobytes() for key, values in again.items()
                }
    assert all_faults(groups_copy) == []


def test_a_damaged_index_loses_the_fidelity_of_its_shard(cache_copy: Path) -> None:
    path = cache_copy / GROUP / "index" / "train-000001.h5"
    overwrite(path, path.read_bytes()[:1000])
    rebuild_all(cache_copy)
    cache = open_cache(cache_copy)
    known = [
        cache.group_index(cache.groups[GROUP], shard).columns["blocks-1-patch-int8"].fidelity is not None
        for shard in cache.manifest.shards
    ]
    assert known == [True, False, True]
    assert all_faults(cache_copy) == []


def test_lost_ledgers_are_written_empty(cache_copy: Path) -> None:
    before = file_hashes(cache_copy)
    shutil.rmtree(cache_copy / "ledger")
    without_manifests(cache_copy)
    rebuild_all(cache_copy)
    assert file_hashes(cache_copy) == before, "there were no bad images"


@pytest.mark.parametrize("part", ["samples", f"{GROUP}/blocks-1-patch-fp16"])
def test_damaged_tars_are_not_accepted(cache_copy: Path, part: str) -> None:
    flip_bit(cache_copy / part / "train-000000.tar", 4000)
    with pytest.raises(CorruptCacheError, match="bytes differ") as caught:
        rebuild_all(cache_copy)
    assert caught.value.remedy is Remedy.REPAIR
    without_manifests(cache_copy)
    with pytest.raises(CorruptCacheError, match="bytes differ"):
        rebuild_all(cache_copy)


def test_a_base_and_a_group_are_rebuilt_alone(groups_copy: Path) -> None:
    before = file_hashes(groups_copy)
    for path in (groups_copy / "manifest.json", groups_copy / "wide" / "manifest.json"):
        path.write_bytes(b"garbage")
    rebuild_only_base(groups_copy)
    assert list(open_cache(groups_copy).unusable) == ["wide"]
    rebuild_only_group(groups_copy, "wide")
    assert file_hashes(groups_copy) == before


@pytest.mark.parametrize(("part", "group"), [("samples", ""), ("raw", "pixels"), ("head-logits-fp16", "wide")])
def test_a_missing_shard_is_no_rebuild(groups_copy: Path, part: str, group: str) -> None:
    (groups_copy / group / part / "train-000001.tar").unlink()
    with pytest.raises(IncompleteCacheError, match=r"1 of 3 shards are missing \(train-000001"):
        rebuild_all(groups_copy)


def test_a_group_of_another_base_is_not_rebuilt(groups_copy: Path, jpeg_root: Path) -> None:
    shutil.rmtree(groups_copy / GROUP)
    shutil.copytree(jpeg_root / GROUP, groups_copy / GROUP)
    with pytest.raises(CacheMismatchError, match="made for another base"):
        rebuild_only_group(groups_copy, GROUP)


def test_shards_of_two_plans_are_not_rebuilt(cache_copy: Path, jpeg_root: Path) -> None:
    (cache_copy / "samples" / "train-000001.tar").unlink()
    shutil.copy(jpeg_root / "samples" / "train-000001.tar", cache_copy / "samples")
    with pytest.raises(CorruptCacheError, match="shards of different plans"):
        rebuild_only_base(cache_copy)


def test_nothing_to_rebuild_from(tmp_path: Path, cache_copy: Path) -> None:
    with pytest.raises(IncompleteCacheError, match="no shards"):
        rebuild_only_base(tmp_path)
    (cache_copy / "new" / "job").mkdir(parents=True)
    with pytest.raises(IncompleteCacheError, match="delete the folder"):
        rebuild_only_group(cache_copy, "new")
