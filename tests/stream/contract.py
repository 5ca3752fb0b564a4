"""What every stream promises, proven by one helper."""

import hashlib
from collections.abc import Callable
from typing import Any

import torch

from kdcache.stream.batch import Batch
from kdcache.stream.loader import CacheLoader

Make = Callable[..., CacheLoader]
Row = tuple[int, int, str]


def fingerprints(batch: Batch) -> list[Row]:
    """Per row the sample, the view, and a hash of everything delivered for it."""
    contents = [b""] * len(batch)
    parts = [batch.labels, *([] if batch.pixels is None else [batch.pixels])]
    parts += [values for name in sorted(batch.targets) for _, values in sorted(batch.targets[name].fields.items())]
    for part in parts:
        contents = [old + part[row].reshape(-1).view(torch.uint8).numpy().tobytes() for row, old in enumerate(contents)]
    if batch.encoded is not None:
        contents = [old + batch.encoded[row].numpy().tobytes() for row, old in enumerate(contents)]
    digests = [hashlib.sha256(content).hexdigest() for content in contents]
    return list(zip(batch.samples.tolist(), batch.views.tolist(), digests, strict=True))


def epochs(loader: CacheLoader, count: int) -> list[list[Row]]:
    """The batches of some epochs, one after the other."""
    return [fingerprints(batch) for _ in range(count) for batch in loader]


def assert_each_record_once(loader: CacheLoader) -> None:
    """No view twice in an epoch, all views of a sample together; what is left out is less than a batch."""
    order = loader.order
    for _ in range(2):
        rows = [row[:2] for batch in loader for row in fingerprints(batch)]
        assert len(rows) == len(loader) * order.batch_size
        samples = [sample for sample, _ in rows]
        counts = {sample: samples.count(sample) for sample in samples}
        if order.tail == "pad" and order.epoch_of == "samples":
            assert set(counts) == set(range(order.num_samples))
            continue
        assert len(set(rows)) == len(rows)
        # The last sample may have lost some of its views.
        assert sum(count != order.views_per_sample for count in counts.values()) <= 1
        assert max(counts.values()) <= order.views_per_sample
        left_out = order.num_rows - len(rows)
        assert 0 <= left_out < order.batch_size if order.tail == "drop" else -order.batch_size < left_out <= 0


def assert_same_global_order(make: Make) -> None:
    """For 1, 2 and 4 ranks: rank r has its slice of each global batch, and every rank has as many batches."""
    alone = epochs(make(), 2)
    for world_size in (2, 4):
        parts = [epochs(make(rank=rank, world_size=world_size), 2) for rank in range(world_size)]
        assert {len(part) for part in parts} == {len(alone)}
        for step, batch in enumerate(alone):
            assert [row for part in parts for row in part[step]] == batch


def assert_resumes_at_every_step(make: Make) -> None:
    """From every state of two epochs, with as many ranks and with two: the same remaining global batches."""
    loader = make()
    states: list[dict[str, Any]] = [loader.state_dict()]
    batches: list[list[Row]] = []
    for _ in range(2):
        for batch in loader:
            batches.append(fingerprints(batch))
            states.append(loader.state_dict())
    assert len(batches) == 2 * len(loader)
    for taken, state in enumerate(states):
        assert _remaining(make(), state) == batches[taken:]
        halves = [_remaining(make(rank=rank, world_size=2), state) for rank in range(2)]
        assert [[*first, *second] for first, second in zip(*halves, strict=True)] == batches[taken:]


def _remaining(loader: CacheLoader, state: dict[str, Any]) -> list[list[Row]]:
    loader.load_state_dict(state)
    return epochs(loader, 2 - state["epoch"])


def assert_stream_contract(make: Make) -> None:
    """All of it.

    Args:
        make: Makes a fresh loader; takes ``rank`` and ``world_size``. Its batches must divide by 4.
    """
    assert_each_record_once(make())
    assert_same_global_order(make)
    assert_resumes_at_every_step(make)
