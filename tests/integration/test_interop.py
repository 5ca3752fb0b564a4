"""The cache without kdcache: webdataset, tar, numpy."""

import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from kdcache.cache import Cache, open_cache
from kdcache.cache.ecosystem import write_dali_indexes
from kdcache.stream.config import StreamConfig
from kdcache.stream.loader import CacheLoader
from tests.conftest import GROUP


def strided(cache: Cache, column_name: str) -> dict[tuple[str, int], dict[str, np.ndarray]]:
    """Every record of a column through the strided view, by key and view."""
    column = cache.column(column_name)
    records: dict[tuple[str, int], dict[str, np.ndarray]] = {}
    for shard in cache.manifest.shards:
        fields = cache.strided(column, shard).fields()
        index = cache.index(shard)
        for record in range(len(index) * 2):
            records[index.key(record // 2), record % 2] = {name: values[record] for name, values in fields.items()}
    return records


def assert_same(loaded: np.ndarray, fields: dict[str, np.ndarray]) -> None:
    for name, values in fields.items():
        np.testing.assert_array_equal(loaded if loaded.dtype.names is None else loaded[name], values)


COLUMNS = ["blocks-1-patch-fp16", "blocks-1-patch-int8", "blocks-1-patch-bf16", "head-logits-topk3"]


# webdataset leaves its files to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("column", COLUMNS)
def test_plain_webdataset(tiny_root: Path, tiny_cache: Cache, column: str) -> None:
    expected = strided(tiny_cache, column)
    urls = str(tiny_root / GROUP / column / "train-{000000..000002}.tar")
    seen = 0
    for sample in webdataset.WebDataset(urls, shardshuffle=False, nodesplitter=lambda source: source):
        for view in range(2):
            loaded = np.load(io.BytesIO(sample[f"v{view:02d}.npy"]), allow_pickle=False)
            assert_same(loaded, expected[sample["__key__"], view])
            seen += 1
    assert seen == 40


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_plain_webdataset_reads_images_and_facts(tiny_root: Path) -> None:
    urls = str(tiny_root / "samples" / "train-{000000..000002}.tar")
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, nodesplitter=lambda source: source))
    assert len(samples) == 20
    for sample in samples:
        assert sample["pgm"].startswith(b"P5\n8 8\n255\n")
        assert json.loads(sample["json"])["source_key"] == sample["__key__"]


@pytest.mark.parametrize("column", COLUMNS)
def test_tar_and_numpy(tiny_root: Path, tiny_cache: Cache, tmp_path: Path, column: str) -> None:
    """Unpacked by the `tar` program and loaded by numpy alone."""
    expected = strided(tiny_cache, column)
    for path in sorted((tiny_root / GROUP / column).glob("*.tar")):
        subprocess.run(["tar", "xf", path, "-C", tmp_path], check=True)
    found = {(path.name.split(".")[0], int(path.name.split(".v")[1][:2])): path for path in tmp_path.glob("*.npy")}
    assert found.keys() == expected.keys()
    for place, path in found.items():
        assert_same(np.load(path, allow_pickle=False), expected[place])


def test_a_batch_of_the_stream_equals_records_read_that_way(tiny_root: Path, tiny_cache: Cache) -> None:
    columns = [tiny_cache.column(name) for name in COLUMNS]
    read = [tiny_cache.index(shard) for shard in tiny_cache.manifest.shards]
    keys = [index.key(row) for index in read for row in range(len(index))]
    records: dict[tuple[str, str], np.ndarray] = {}
    for name in COLUMNS:
        for path in (tiny_root / GROUP / name).glob("*.tar"):
            with tarfile.open(path) as tar:
                for member in (each for each in tar if each.name.endswith(".npy")):
                    data = tar.extractfile(member).read()
                    records[name, member.name] = np.load(io.BytesIO(data), allow_pickle=False)
    for batch in CacheLoader(tiny_cache, columns, StreamConfig(batch_size=10)):
        for row, (sample, view) in enumerate(zip(batch.samples.tolist(), batch.views.tolist(), strict=True)):
            for column in columns:
                loaded = records[column.facts.name, f"{keys[sample]}.v{view:02d}.npy"]
                fields = {name: values[row] for name, values in batch.targets[column.name].fields.items()}
                if column.codec == "bf16":
                    fields = {name: values.view(torch.uint16) for name, values in fields.items()}
                fields = {name: values.numpy() for name, values in fields.items()}
                assert_same(loaded, fields)


def test_no_pickle_anywhere_and_the_fingerprint_in_its_place(groups_root: Path, jpeg_root: Path) -> None:
    """Every tar by `tarfile` alone, every array by numpy; the fingerprint is first in samples and last in columns."""
    paths = [path for root in (groups_root, jpeg_root) for path in root.rglob("*.tar")]
    assert len(paths) == 3 * (1 + 7 + 2 + 1) + 3 * (1 + 2 + 1)
    for path in paths:
        with tarfile.open(path, "r:") as tar:
            members = list(tar)
            names = [member.name for member in members]
            assert names.index("__kdcache__") == (0 if path.parent.name == "samples" else len(names) - 1)
            assert {name.rpartition(".")[2] for name in names} <= {"npy", "json", "pgm", "jpg", "__kdcache__"}
            for member in members:
                assert member.isreg()
                if member.name.endswith(".npy"):
                    file = tar.extractfile(member)
                    assert file is not None
                    np.load(io.BytesIO(file.read()), allow_pickle=False)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_plain_webdataset_reads_stored_pixels(groups_root: Path, jpeg_root: Path) -> None:
    for root, column, name in ((groups_root, "raw", "v01.npy"), (jpeg_root, "jpeg", "v01.jpg")):
        cache = open_cache(root)
        hashes = {
            index.key(row): index.sample(row).pixel_hashes[1]
            for shard in cache.manifest.shards
            for index in [cache.index(shard)]
            for row in range(len(index))
        }
        urls = str(root / "pixels" / column / "train-{000000..000002}.tar")
        samples = [
            sample
            for sample in webdataset.WebDataset(urls, shardshuffle=False, nodesplitter=lambda source: source)
            if name in sample
        ]
        assert [sample["__key__"] for sample in samples] == list(hashes)
        for sample in samples:
            data = io.BytesIO(sample[name])
            pixels = np.asarray(Image.open(data)) if name.endswith("jpg") else np.load(data, allow_pickle=False)
            assert hashlib.sha256(np.ascontiguousarray(pixels)).hexdigest()[:32] == hashes[sample["__key__"]]


@pytest.mark.parametrize("column", COLUMNS)
def test_dali_indexes_are_those_of_its_own_tool(tiny_cache: Cache, tmp_path: Path, column: str) -> None:
    """Extension, offset, size and name of every member, as Python's tarfile sees them."""
    for path, shard in zip(
        write_dali_indexes(tiny_cache, tiny_cache.column(column), tmp_path), tiny_cache.manifest.shards, strict=True
    ):
        head, *lines = path.read_text().splitlines()
        assert head == f"v1.2 {shard.num_samples}"
        with tarfile.open(tiny_cache.path(f"{GROUP}/{column}", shard)) as tar:
            members = [member for member in tar if member.name.endswith(".npy")]
        for line, pair in zip(lines, zip(members[0::2], members[1::2], strict=True), strict=True):
            wanted = [f"{each.name.partition('.')[2]} {each.offset_data} {each.size} {each.name}" for each in pair]
            assert line == " ".join(wanted)


def test_dali_reads_a_column(tiny_root: Path, tiny_cache: Cache, tmp_path: Path) -> None:
    dali = pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed")
    column = COLUMNS[0]
    expected = strided(tiny_cache, column)
    names = [shard.name for shard in tiny_cache.manifest.shards]
    indexes = write_dali_indexes(tiny_cache, tiny_cache.column(column), tmp_path)
    pipeline = dali.Pipeline(batch_size=4, num_threads=1, device_id=None)
    with pipeline:
        views = dali.fn.readers.webdataset(
            paths=[str(tiny_root / GROUP / column / f"{name}.tar") for name in names],
            index_paths=[str(path) for path in indexes],
            ext=["v00.npy", "v01.npy"],
        )
        pipeline.set_outputs(*views)
    pipeline.build()
    read = [tiny_cache.index(shard) for shard in tiny_cache.manifest.shards]
    keys = [index.key(row) for index in read for row in range(len(index))]
    for first in range(0, 20, 4):
        for view, output in enumerate(pipeline.run()):
            for at in range(4):
                loaded = np.load(io.BytesIO(np.array(output[at]).tobytes()), allow_pickle=False)
                assert_same(loaded, expected[keys[first + at], view])
