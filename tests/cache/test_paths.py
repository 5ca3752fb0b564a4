from pathlib import Path

import pytest

from kdcache.cache.paths import CachePaths, is_safe_name, safe_name, shard_name


def test_names() -> None:
    paths = CachePaths(Path("c"))
    assert shard_name("train", 7) == "train-000007"
    assert paths.shard("samples", "train-000007") == Path("c/samples/train-000007.tar")
    assert paths.shard("index", "train-000007") == Path("c/index/train-000007.h5")
    assert paths.shard("ledger", "train-000007") == Path("c/ledger/train-000007.json")
    assert paths.shard("blocks-1-patch-fp16", "train-000007") == Path("c/blocks-1-patch-fp16/train-000007.tar")


@pytest.mark.parametrize("name", ["", "..", "a/b", "/a", "A", "a.b", "-a", "a" * 81, "a\n"])
def test_names_that_could_leave_the_folder(name: str) -> None:
    assert not is_safe_name(name)


@pytest.mark.parametrize(
    ("text", "name"),
    [("cait_s24_224", "cait-s24-224"), ("hf-hub:A/b.c", "hf-hub-a-b-c"), ("__", "x"), ("a" * 200, "a" * 80)],
)
def test_any_text_becomes_a_safe_name(text: str, name: str) -> None:
    assert safe_name(text) == name
    assert is_safe_name(safe_name(text))


def test_groups_are_folders_with_a_manifest_or_a_job(tmp_path: Path) -> None:
    for name in ("b", "a", "samples", "index", "Upper", "empty"):
        (tmp_path / name).mkdir()
        if name != "empty":
            (tmp_path / name / "manifest.json").touch()
    (tmp_path / "begun" / "job").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    paths = CachePaths(tmp_path)
    assert paths.group_names() == ["a", "b", "begun"]
    assert paths.group("a").shard("x", "train-000000") == tmp_path / "a" / "x" / "train-000000.tar"
    assert CachePaths(tmp_path / "nowhere").group_names() == []
