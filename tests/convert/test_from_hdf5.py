import shutil
from pathlib import Path

import h5py
import pytest

from kdcache.cache import open_cache
from kdcache.cache.verify import verify_group_shard
from kdcache.convert.codec import CodecConversion, convert_codec
from kdcache.convert.from_hdf5 import from_hdf5
from kdcache.convert.to_hdf5 import to_hdf5
from kdcache.errors import CacheMismatchError, CorruptCacheError, UsageError
from tests.conftest import GROUP, file_hashes
from tests.convert.support import killed_at


@pytest.fixture(scope="module")
def tiny_file(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny cache as HDF5; no test may change it."""
    path = tmp_path_factory.mktemp("hdf5") / "tiny.h5"
    to_hdf5(tiny_root, path)
    return path


def test_a_cache_comes_back_with_the_same_hashes(tiny_root: Path, tiny_file: Path, tmp_path: Path) -> None:
    made = from_hdf5(tiny_file, tmp_path / "back")
    assert file_hashes(tmp_path / "back") == file_hashes(tiny_root)
    assert made.num_skipped == 0
    again = from_hdf5(tiny_file, tmp_path / "back")
    assert (again.num_files, again.num_skipped) == (0, made.num_files)


@pytest.mark.parametrize("name", ["groups_root", "jpeg_root", "blocks_root"])
def test_groups_pixels_and_conversions_too(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    root = Path(shutil.copytree(request.getfixturevalue(name), tmp_path / "copy"))
    convert_codec(CodecConversion(cache=root, codec="int4", group=GROUP, columns=[_patch(root)], max_error=1.0))
    to_hdf5(root, tmp_path / "c.h5")
    from_hdf5(tmp_path / "c.h5", tmp_path / "back")
    assert file_hashes(tmp_path / "back") == file_hashes(root)
    cache = open_cache(tmp_path / "back")
    for group in cache.groups.values():
        assert [each for shard in cache.manifest.shards for each in verify_group_shard(cache, group, shard)] == []


def _patch(root: Path) -> str:
    return next(each.facts.name for each in open_cache(root).group(GROUP).columns if each.kind == "patch")


@pytest.mark.parametrize(("step", "num_done"), [(3, 0), (20, 3), (61, 11), (100, 19), (160, 31)])
def test_it_resumes_after_a_kill(tiny_root: Path, tiny_file: Path, tmp_path: Path, step: int, num_done: int) -> None:
    assert killed_at(step, lambda: from_hdf5(tiny_file, tmp_path / "back"))
    made = from_hdf5(tiny_file, tmp_path / "back")
    assert file_hashes(tmp_path / "back") == file_hashes(tiny_root)
    assert made.num_skipped == num_done


def damaged(path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(path, tmp_path / "damaged.h5"))


@pytest.mark.parametrize("name", [f"groups/{GROUP}/columns/blocks-1-patch-fp16/values", "shards/samples/train-000001"])
def test_a_byte_that_changed_is_found(tiny_file: Path, tmp_path: Path, name: str) -> None:
    path = damaged(tiny_file, tmp_path)
    with h5py.File(path, "r+") as file:
        file[name][3] = file[name][3] + 1
    with pytest.raises(CorruptCacheError, match=r"damaged\.h5: what it holds of .* has sha256"):
        from_hdf5(path, tmp_path / "back")
    assert not (tmp_path / "back" / "manifest.json").exists()


def test_datasets_that_are_not_what_the_manifest_says_are_refused(tiny_file: Path, tmp_path: Path) -> None:
    path = damaged(tiny_file, tmp_path)
    name = f"groups/{GROUP}/columns/blocks-1-patch-fp16/values"
    with h5py.File(path, "r+") as file:
        del file[name]
    with pytest.raises(CorruptCacheError, match=f"no dataset {name}"):
        from_hdf5(path, tmp_path / "back")
    with h5py.File(path, "r+") as file:
        file[name] = h5py.ExternalLink("elsewhere.h5", "/values")
    with pytest.raises(CorruptCacheError, match=f"no dataset {name}"):
        from_hdf5(path, tmp_path / "back")
    with h5py.File(path, "r+") as file:
        del file[name]
        file.create_dataset(name, (40, 16, 24), "f4")
    with pytest.raises(CorruptCacheError, match=r"is float32 .* wanted float16"):
        from_hdf5(path, tmp_path / "back")
    with h5py.File(path, "r+") as file:
        file["groups"].move(GROUP, "..bad")
    with pytest.raises(CorruptCacheError, match="cannot name a group"):
        from_hdf5(path, tmp_path / "back")


def test_another_cache_is_not_written_over(tiny_file: Path, blocks_root: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(blocks_root, tmp_path / "blocks"))
    before = file_hashes(copy)
    with pytest.raises(CacheMismatchError, match=f"{GROUP}: is another than that in"):
        from_hdf5(tiny_file, copy)
    assert file_hashes(copy) == before


def test_what_is_no_cache_is_said_to_be_none(tiny_file: Path, groups_root: Path, tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("mine")
    with pytest.raises(UsageError, match="is no HDF5 file"):
        from_hdf5(tmp_path / "text.h5", tmp_path / "back")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = [1]
    with pytest.raises(UsageError, match="is an HDF5 file, but no cache of kdcache"):
        from_hdf5(tmp_path / "other.h5", tmp_path / "back")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"holds a\.jpg"):
        from_hdf5(tiny_file, tmp_path / "photos")
    with pytest.raises(UsageError, match="is a file"):
        from_hdf5(tiny_file, tmp_path / "text.h5")
    copy = Path(shutil.copytree(groups_root, tmp_path / "groups"))
    with pytest.raises(UsageError, match="holds pixels, wide, which the cache in"):
        from_hdf5(tiny_file, copy)
