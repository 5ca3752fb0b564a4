"""Batches on their way to an accelerator: the copy of the next one overlaps the step on the present one."""

from collections.abc import Generator
from dataclasses import replace
from typing import Any, TypeVar

import torch

from kdcache.stream.batch import Batch, BatchBuffers

Order = TypeVar("Order")
_SLOTS = 2


def on_device(filled: Generator[tuple[BatchBuffers, Order]], device: torch.device) -> Generator[tuple[Batch, Order]]:
    """Copy batches to a device on a stream of its own, one batch ahead of the consumer.

    The device holds two batches, allocated once. A batch may be used, on the stream that is current when it is asked
    for, until the next one is asked for.

    Args:
        filled: Host buffers, each valid until the next is asked for.
        device: Where to; streams are taken from torch's module for it.
    """
    # On a CPU torch's streams do nothing and copies are done when they return, so the same lines are tested there.
    module: Any = torch.get_device_module(device)
    copies = module.Stream()
    slots: list[Batch | None] = [None] * _SLOTS

    def begin(number: int, buffers: BatchBuffers) -> tuple[Batch, Any]:
        host = buffers.batch
        copies.wait_stream(module.current_stream())  # the step that used this slot was queued before
        with module.stream(copies):
            slot = slots[number % _SLOTS]
            if slot is None or len(slot) != len(host):
                slot = slots[number % _SLOTS] = replace(_empty_like(host, device), encoded=None)
            for there, here in zip(slot.tensors(), host.tensors(), strict=True):
                there.copy_(here, non_blocking=True)
            done = module.Event()
            done.record(copies)
        return replace(slot, encoded=None if host.encoded is None else host.encoded.clone()), done

    ready = None
    for number, (buffers, order) in enumerate(filled):
        batch, done = begin(number, buffers)
        if ready is not None:
            yield _arrived(module, *ready)
        ready = batch, done, order
        done.synchronize()  # the host buffer is filled again as soon as the next one is asked for
    if ready is not None:
        yield _arrived(module, *ready)


def _arrived(module: Any, batch: Batch, done: Any, order: Order) -> tuple[Batch, Order]:
    module.current_stream().wait_event(done)
    return batch, order


def _empty_like(batch: Batch, device: torch.device) -> Batch:
    return replace(
        batch,
        labels=torch.empty_like(batch.labels, device=device),
        samples=torch.empty_like(batch.samples, device=device),
        views=torch.empty_like(batch.views, device=device),
        targets={name: each.empty_like(device) for name, each in batch.targets.items()},
        pixels=None if batch.pixels is None else torch.empty_like(batch.pixels, device=device),
    )
