"""The copies to an accelerator, run on a CPU, whose streams do nothing: what is checked is which memory holds what."""

import contextlib
from collections.abc import Generator

import numpy as np
import pytest
import torch

from kdcache.cache import Cache
from kdcache.stream.batch import BatchBuffers
from kdcache.stream.device import DeviceCopies, resolved

CPU = torch.device("cpu")


def filled(cache: Cache, count: int, asked: list[int]) -> Generator[BatchBuffers]:
    """Two host buffers in turn, spoilt as soon as the next is asked for."""
    columns = cache.columns[:2]
    buffers = [BatchBuffers(3, columns, cache.manifest.fingerprint.views, pinned=False) for _ in range(2)]
    for number in range(count):
        asked.append(number)
        buffers[(number - 1) % 2].labels.fill(-7)
        own = buffers[number % 2]
        own.labels.fill(number)
        own.set_rows(np.full((3, 2), number))
        own.set_encoded([bytes([number])] * 3, np.ones(3, np.int64), np.zeros((3, 9), np.int32))
        for fields in own.fields.values():
            for field in fields:
                field[:] = number
        yield own


def test_every_batch_arrives_whole_and_one_is_under_way(tiny_cache: Cache) -> None:
    asked: list[int] = []
    for expected, batch in enumerate(DeviceCopies(CPU).deliver(filled(tiny_cache, 5, asked))):
        assert asked[-1] == min(expected + 1, 4), "the next copy begins before this batch is used"
        assert batch.labels.tolist() == batch.samples.tolist() == [expected] * 3
        for targets in batch.targets.values():
            for values in targets.fields.values():
                assert (values.contiguous().view(torch.uint8) == expected).all()
        assert batch.encoded is not None
        assert batch.encoded[0].tolist() == [expected]


def test_the_device_holds_two_batches(tiny_cache: Cache) -> None:
    copies = DeviceCopies(CPU)
    places = {batch.labels.data_ptr() for batch in copies.deliver(filled(tiny_cache, 6, []))}
    places |= {batch.labels.data_ptr() for batch in copies.deliver(filled(tiny_cache, 3, []))}
    assert len(places) == 2, "in every pass the same"


def test_the_device_is_known_by_its_number() -> None:
    assert resolved(CPU) == CPU
    assert resolved(torch.device("cuda:1")) == torch.device("cuda:1")


@pytest.mark.parametrize("count", [0, 1, 2])
def test_short_streams(tiny_cache: Cache, count: int) -> None:
    batches = DeviceCopies(CPU).deliver(filled(tiny_cache, count, []))
    assert [int(batch.samples[0]) for batch in batches] == list(range(count))


def test_leaving_early(tiny_cache: Cache) -> None:
    stream = DeviceCopies(CPU).deliver(filled(tiny_cache, 5, []))
    with contextlib.closing(stream):
        next(stream)
