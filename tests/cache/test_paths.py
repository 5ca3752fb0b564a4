from pathlib import Path

import pytest

from kdcache.cache.paths import CachePaths, is_safe_name, shard_name


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
