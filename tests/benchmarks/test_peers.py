"""Every peer delivers each record at most once, whole, under its own label, and leaves no process behind."""

import io
import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.peers.base import Loader, Workload
from benchmarks.peers.registry import PEERS, installed, load
from kdcache.views import VIEW_FIELDS

NUM_RECORDS, BATCH_SIZE, NUM_WORKERS = 200, 16, 2
FIELDS = {
    "A": {"values": ("<f2", (7, 12))},
    "B": {"values": ("|i1", (7, 5)), "scale": ("<f2", (7,))},
    "C": {"feature": ("<f2", (6, 8))},
}
BY_HAND = ("np.memmap, threaded by hand", "safetensors, threaded by hand")
ALWAYS_INSTALLED = ("np.memmap", "h5py", "safetensors", "webdataset", *BY_HAND)
IN_ORDER = ("np.memmap", "h5py", "safetensors", "LMDB", "NVIDIA DALI", "ffcv", "wids", "grain", *BY_HAND)
DROP_PER_WORKER = ("webdataset",)


class ToyWorkload(Workload):
    """C with views that tell the record."""

    def view(self, number: int) -> np.ndarray:
        return np.arange(number, number + len(VIEW_FIELDS), dtype=np.int32)


def brighten(image: bytes, view: np.ndarray) -> np.ndarray:
    """Pixels that tell the image and the view."""
    with Image.open(io.BytesIO(image)) as opened:
        pixels = np.asarray(opened.convert("RGB").resize((8, 8)))
    return pixels + view[:3].astype(np.uint8)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    paths = tuple(folder / f"{number}.jpg" for number in range(3))
    for number, path in enumerate(paths):
        pixels = random.integers(0, 256, (12 + number, 10, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    return paths


@pytest.fixture(params=PEERS)
def peer(request: pytest.FixtureRequest) -> Loader:
    try:
        return load(request.param)
    except (ImportError, OSError) as error:
        if request.param in ALWAYS_INSTALLED:
            raise
        pytest.skip(f"{type(error).__name__}: {error}")


@pytest.fixture
def new_processes() -> Iterator[None]:
    """Fails the test that leaves child processes; the tracker of shared memory that Python starts may stay."""
    before = children()
    yield
    assert not children() - before


def children() -> set[str]:
    lists = [path.read_text().split() for path in Path("/proc/self/task").glob("*/children")]
    commands = {child: Path("/proc", child, "cmdline") for of_thread in lists for child in of_thread}
    living = {child: command.read_bytes() for child, command in commands.items() if command.exists()}
    return {child for child, command in living.items() if b"resource_tracker" not in command}


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("order", ["sequential", "shuffled"])
@pytest.mark.usefixtures("new_processes")
def test_a_peer_delivers_the_records(
    peer: Loader, name: str, order: str, tmp_path: Path, images: tuple[Path, ...]
) -> None:
    if name not in peer.workloads or order not in peer.orders:
        pytest.skip(f"{peer.name} does not do {name} {order}")
    replay = brighten if name == "C" else None
    workload = ToyWorkload(
        name, NUM_RECORDS, BATCH_SIZE, FIELDS[name], NUM_WORKERS, images=images if replay else (), replay=replay
    )
    assert peer.versions() and peer.settings(workload)
    peer.write(workload, tmp_path)
    peer.open(workload, tmp_path, shuffle=order == "shuffled")
    try:
        epochs = [[checked(workload, batch) for batch in peer.epoch(epoch)] for epoch in range(3)]
    finally:
        peer.close()
    for batches in epochs:
        dropped = NUM_WORKERS if peer.name in DROP_PER_WORKER else 0
        assert workload.batches - dropped <= len(batches) <= workload.batches
        labels = np.concatenate(batches)
        assert len(np.unique(labels)) == len(labels)
        assert labels.min() >= 0 and labels.max() < NUM_RECORDS
        if order == "sequential" and peer.name in IN_ORDER:
            np.testing.assert_array_equal(labels, np.arange(len(labels)))
    if order == "shuffled":
        orders = [np.concatenate(batches).tolist() for batches in epochs]
        assert orders[0] != orders[1] != orders[2]
        assert all(labels != sorted(labels) for labels in orders)


def checked(workload: Workload, batch: Mapping[str, Any]) -> np.ndarray:
    """A copy of the labels of a batch that is as it must be."""
    arrays = {name: in_memory(values) for name, values in batch.items()}
    labels = arrays["label"].copy()
    assert labels.dtype == np.int64 and labels.shape == (BATCH_SIZE,)
    for name, (dtype, shape) in workload.fields.items():
        assert arrays[name].dtype == np.dtype(dtype) and arrays[name].shape == (BATCH_SIZE, *shape)
        first = arrays[name].reshape(BATCH_SIZE, -1).view(np.uint8)[:, :4]
        np.testing.assert_array_equal(first.copy().view("<i4")[:, 0], labels)
    for row in (0, BATCH_SIZE // 2, BATCH_SIZE - 1):
        number = int(labels[row])
        for name, value in workload.record(number).items():
            assert arrays[name][row].tobytes() == value.tobytes()
        if workload.replay is not None:
            expected = workload.replay(workload.image(number), workload.view(number))
            np.testing.assert_array_equal(arrays["pixels"][row], expected)
    return labels


def in_memory(values: Any) -> np.ndarray:
    """The array, after seeing that it is contiguous and no view of a mapped file."""
    array = values.numpy() if isinstance(values, torch.Tensor) else values
    assert array.flags.c_contiguous
    owner = array
    while owner is not None:
        assert not isinstance(owner, np.memmap | mmap.mmap)
        owner = getattr(owner, "base", None)
    return array


def test_the_registry_knows_what_is_installed() -> None:
    loaders, missing = installed()
    assert {loader.name for loader in loaders} | set(missing) == set(PEERS)
    assert {loader.name for loader in loaders} >= set(ALWAYS_INSTALLED)
