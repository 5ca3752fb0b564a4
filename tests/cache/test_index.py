import hashlib
import time
from pathlib import Path

import pytest

from kdcache.cache.facts import FileFacts
from kdcache.cache.index import ShardIndex, index_bytes, read_index
from kdcache.cache.sample import Sample
from kdcache.cache.tar import Member
from kdcache.errors import CorruptCacheError, Remedy

PLAN = "ef" * 32
SAMPLES = [
    Sample(
        key=f"key-{number}",
        source_key=b"source \xff".decode("utf-8", "surrogateescape") + str(number),
        label=number - 1,
        source_sha256=f"{number:064x}",
        size=(8, 9),
        mode="RGB" if number else "L",
        orientation=1 + number,
        views=((number, 1, 2), (3, 4, 5)),
        pixel_hashes=("ab" * 16, f"{number:032x}"),
    )
    for number in range(3)
]


def make_index() -> ShardIndex:
    members = [Member("a.jpg", 512, 7), None, Member("c.jpg", 2048, 9)]
    index = ShardIndex.from_samples(SAMPLES, members, plan=PLAN, num_views=2, num_view_fields=3)
    index.files["samples"] = FileFacts(sha256="cd" * 32, xxh3="00ff" * 4, size_bytes=10_240)
    return index


def test_everything_comes_back(tmp_path: Path) -> None:
    index = make_index()
    found = read_index(tmp_path / "i.h5", data=index_bytes(index))
    assert [found.sample(row) for row in range(len(found))] == SAMPLES
    assert found.image_offsets.tolist() == [512, 0, 2048]
    assert found.image_sizes.tolist() == [7, 0, 9]
    assert (found.plan, found.files) == (PLAN, index.files)


def test_the_same_index_gives_the_same_bytes_at_any_time() -> None:
    first = index_bytes(make_index())
    time.sleep(1.1)
    assert hashlib.sha256(first).digest() == hashlib.sha256(index_bytes(make_index())).digest()


def test_a_shard_without_samples(tmp_path: Path) -> None:
    index = ShardIndex.from_samples([], [], plan=PLAN, num_views=2, num_view_fields=3)
    found = read_index(tmp_path / "i.h5", data=index_bytes(index))
    assert len(found) == 0
    assert found.views.shape == (0, 2, 3)


def test_what_is_no_index_of_images_is_refused(tmp_path: Path) -> None:
    from kdcache.cache.hdf5 import hdf5_bytes

    with pytest.raises(CorruptCacheError, match=r"i\.h5: not a readable index") as caught:
        read_index(tmp_path / "i.h5", data=hdf5_bytes({}))
    assert caught.value.remedy is Remedy.REBUILD
