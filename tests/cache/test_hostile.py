"""Manifests and indexes of a stranger, under hashes that fit: refused in words and at once, never read."""

import contextlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdcache.cache import Cache, open_cache
from kdcache.cache.group_index import group_index_bytes, read_group_index
from kdcache.cache.hdf5 import hdf5_bytes, read_hdf5
from kdcache.cache.index import index_bytes, read_index
from kdcache.cache.paths import CachePaths
from kdcache.errors import KdcacheError
from kdcache.stream.config import StreamConfig
from kdcache.stream.loader import CacheLoader
from tests.cache.support import facts_json, follow_base, overwrite, rewrite_manifest
from tests.conftest import GROUP

MOST_S = 20.0  # a hang; reading all of it takes two seconds on a busy machine
NUMBERS = (-1, 0, 2**31, 10**9, 10**15, 2**70, 0.5, "7", None, [], {}, True)
TEXTS = (0, "", "../x", "/etc/passwd", "a\n\x1b[2J", "x" * 10_000, None, [], {})
LISTS = (None, {}, "abc", [0], [10**9, 10**9], [[]], [-1], [None])


def streamed(root: Path) -> dict[int, list[Any]]:
    """What a student would get: labels and targets of every record, by sample and view."""
    cache = open_cache(root)
    columns = [column for column in cache.group(GROUP).columns if column.codec in ("int8", "topk")]
    loader = CacheLoader(cache, columns, StreamConfig(batch_size=4, images="none", shuffle=False, num_threads=1))
    rows: dict[int, list[Any]] = {}
    for batch in loader:
        for row, (sample, view) in enumerate(zip(batch.samples.tolist(), batch.views.tolist(), strict=True)):
            targets = [each.decode()[row].numpy().tobytes() for each in batch.targets.values()]
            rows[2 * sample + view] = [int(batch.labels[row]), targets]
    return rows


def must_refuse_or_read_right(root: Path, wanted: dict[int, list[Any]], what: object) -> bool:
    """Whether it was refused. Whatever else is raised, or takes long, fails the test."""
    started = time.monotonic()
    try:
        open_cache(root)
        found = streamed(root)
    except (KdcacheError, ValueError) as error:
        # A ValueError may say only that no batch can be made of so few samples.
        assert isinstance(error, KdcacheError) or "batch" in str(error), (what, error)
        return True
    else:
        assert all(wanted[number] == row for number, row in found.items()), what
        return False
    finally:
        assert time.monotonic() - started < MOST_S, what


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to everything in a JSON value; of a list of shards or columns, the first."""
    found = [path]
    if isinstance(value, dict):
        for name, each in value.items():
            found += leaves(each, (*path, name))
    elif isinstance(value, list) and value:
        found += leaves(value[0], (*path, 0))
    return found


def planted(value: Any, path: tuple[Any, ...], new: Any) -> None:
    for step in path[:-1]:
        value = value[step]
    value[path[-1]] = new


@pytest.fixture(scope="module")
def wanted(tiny_root: Path) -> dict[int, list[Any]]:
    return streamed(tiny_root)


@pytest.mark.parametrize("group", ["", GROUP])
@pytest.mark.slow
def test_no_manifest_of_a_stranger_crashes_hangs_or_lies(
    tiny_root: Path, tmp_path: Path, wanted: dict[int, list[Any]], group: str
) -> None:
    root = Path(shutil.copytree(tiny_root, tmp_path / "c"))
    paths = CachePaths(root).group(group) if group else CachePaths(root)
    original = json.loads(paths.manifest.read_bytes())
    random = np.random.default_rng(0)
    num_refused = 0
    tried = leaves(original)[1:]
    for path in tried:
        held: Any = original
        for step in path:
            held = held[step]
        kinds = TEXTS if isinstance(held, str) else LISTS if isinstance(held, list | dict) else NUMBERS
        for new in [kinds[number] for number in random.choice(len(kinds), 3 if kinds is NUMBERS else 1, replace=False)]:
            rewrite_manifest(paths, lambda value: value.update(json.loads(json.dumps(original))))
            rewrite_manifest(paths, lambda value, path=path, new=new: planted(value, path, new))
            if not group:
                follow_base(root)
            num_refused += must_refuse_or_read_right(root, wanted, (path, new))
    assert num_refused > len(tried) // 2


@pytest.mark.parametrize("name", ["num_views", "size"])
def test_huge_counts_end_at_once(tiny_root: Path, tmp_path: Path, name: str) -> None:
    root = Path(shutil.copytree(tiny_root, tmp_path / "c"))
    rewrite_manifest(CachePaths(root), lambda value: value["fingerprint"]["views"].update({name: 10**9}))
    with pytest.raises(KdcacheError, match=rf"Expected `int` <= \d+ - at `\$\.fingerprint\.views\.{name}`"):
        open_cache(root)


def test_a_cache_of_more_images_than_its_files_hold_is_not_streamed(tiny_root: Path, tmp_path: Path) -> None:
    """All figures of the manifest agree with each other: files of petabytes, and images to fill them."""
    root = Path(shutil.copytree(tiny_root, tmp_path / "c"))

    def inflate(value: Any) -> None:
        value["fingerprint"]["shard_samples"], value["fingerprint"]["source"]["num_samples"] = 2**31 - 1, 2**31 - 1
        value["shards"] = value["shards"][:1]
        value["image_modes"] = {"L": 2**31 - 1}
        value["shards"][0].update(num_samples=2**31 - 1, num_bad=0)
        value["shards"][0]["files"]["samples"]["size_bytes"] = 2**52

    rewrite_manifest(CachePaths(root), inflate)
    with pytest.raises(KdcacheError, match=r"train-000000\.tar: \d+ bytes cannot hold 2147483647 images"):
        CacheLoader(open_cache(root), [], StreamConfig(batch_size=4, images="none", window=1))


def half(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return values.astype(np.float16)


Change = Callable[[np.ndarray], Any]
CHANGES: dict[str, Change] = {
    "scalar": lambda values: values.reshape(-1)[0],
    "empty": lambda values: values[:0],
    "short": lambda values: values[:-1],
    "long": lambda values: np.concatenate([values, values[-1:]]),
    "transposed": lambda values: values.reshape(1, *values.shape),
    "float": lambda values: half(values) if values.dtype.kind in "iuf" else np.zeros(values.shape),
    "largest": lambda values: np.full_like(values, np.iinfo(values.dtype).max if values.dtype.kind in "iu" else np.inf)
    if values.dtype.kind in "iuf" else np.full(values.shape, b"../x"),
    "negative": lambda values: values * -1 - 7 if values.dtype.kind in "if" else values[::-1].copy(),
}  # fmt: skip


def forged_index(root: Path, group: str, name: str, change: Change) -> None:
    """Change one dataset of the index of the second shard, and let every hash above it fit."""
    paths = CachePaths(root).group(group) if group else CachePaths(root)
    path = paths.shard("index", "train-000001")
    arrays = read_hdf5(path, path.read_bytes())
    data = hdf5_bytes({**arrays, name: np.asarray(change(arrays[name]))})
    overwrite(path, data)

    def agree(manifest: Any) -> None:
        manifest["shards"][1]["files"]["index"] = facts_json(data, path)

    rewrite_manifest(paths, agree)
    if not group:
        follow_base(root)


def datasets(root: Path, group: str) -> list[str]:
    path = (root / group) / "index" / "train-000001.h5"
    names = list(read_hdf5(path, path.read_bytes()))
    return [name for name in names if not name.startswith("columns/") or "int8" in name]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("group", ["", GROUP])
def test_no_index_of_a_stranger_has_another_shape_or_range(
    tiny_root: Path, tmp_path: Path, group: str, change: str
) -> None:
    root = Path(shutil.copytree(tiny_root, tmp_path / "c"))
    paths = CachePaths(root).group(group) if group else CachePaths(root)
    original = paths.shard("index", "train-000001").read_bytes()
    refused: list[str] = []
    for name in datasets(tiny_root, group):
        overwrite(paths.shard("index", "train-000001"), original)
        forged_index(root, group, name, CHANGES[change])
        cache = open_cache(root)
        shard = cache.manifest.shards[1]
        try:
            cache.group_index(cache.groups[group], shard) if group else cache.index(shard)
        except KdcacheError:
            refused.append(name)
        else:
            # What remains is of the right type and shape and in range; what it says is the writer's.
            assert change in ("largest", "negative"), name
    assert refused


@pytest.mark.slow
def test_damaged_indexes_are_refused_or_whole(tiny_cache: Cache, tmp_path: Path) -> None:
    """Flipped bytes, not hashed: as an extraction meets them."""
    random = np.random.default_rng(1)
    shard = tiny_cache.manifest.shards[0]
    base = tiny_cache.path("index", shard).read_bytes()
    group = tiny_cache.path(f"{GROUP}/index", shard).read_bytes()
    for read, again, data in ((read_index, index_bytes, base), (read_group_index, group_index_bytes, group)):
        for _ in range(100):
            damaged = bytearray(data)
            for position in random.integers(0, len(data), 3):
                damaged[position] ^= int(random.integers(1, 256))
            started = time.monotonic()
            with contextlib.suppress(KdcacheError):
                again(read(tmp_path / "i.h5", data=bytes(damaged)))
            assert time.monotonic() - started < MOST_S
