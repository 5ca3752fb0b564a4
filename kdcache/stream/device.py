"""Batches on their way to an accelerator: the copy of the next one overlaps the step on the present one."""

from collections.abc import Generator
from dataclasses import replace
from typing import Any

import torch

from kdcache.stream.batch import Batch, BatchBuffers

_SLOTS = 2


def resolved(device: torch.device) -> torch.device:
    """The device with its number: ``cuda`` is the one that is current now."""
    if device.type == "cpu" or device.index is not None:
        return device
    return torch.device(device.type, torch.get_device_module(device).current_device())


class DeviceCopies:
    """Two batches on a device and the stream on which they are filled, one batch ahead of the consumer.

    Args:
        device: With its number.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # On a CPU torch's streams do nothing and copies are done when they return, so the same lines are tested there.
        self._module: Any = torch.get_device_module(device)
        self._where = {} if device.type == "cpu" else {"device": device}
        self._copies = self._module.Stream(**self._where)
        self._slots: list[Batch | None] = [None] * _SLOTS

    def deliver(self, filled: Generator[BatchBuffers]) -> Generator[Batch]:
        """Copy batches over.

        A batch may be used, on the stream that is current when it is asked for, until the next one is asked for.

        Args:
            filled: Host buffers, each valid until the next is asked for.
        """
        ready = None
        for number, buffers in enumerate(filled):
            batch, done = self._begin(number, buffers)
            if ready is not None:
                yield self._arrived(*ready)
            ready = batch, done
            done.synchronize()  # the host buffer is filled again as soon as the next one is asked for
        if ready is not None:
            yield self._arrived(*ready)

    def _begin(self, number: int, buffers: BatchBuffers) -> tuple[Batch, Any]:
        host = buffers.batch
        self._copies.wait_stream(self._current_stream())  # the step that used this slot was queued before
        with self._module.stream(self._copies):
            slot = self._slots[number % _SLOTS]
            if slot is None:
                slot = self._slots[number % _SLOTS] = _empty_like(host, self._device)
            for there, here in zip(slot.tensors(), host.tensors(), strict=True):
                there.copy_(here, non_blocking=True)
            done = self._module.Event()
            done.record(self._copies)
        return replace(slot, encoded=None if host.encoded is None else host.encoded.clone()), done

    def _arrived(self, batch: Batch, done: Any) -> Batch:
        self._current_stream().wait_event(done)
        return batch

    def _current_stream(self) -> Any:
        return self._module.current_stream(**self._where)


def _empty_like(batch: Batch, device: torch.device) -> Batch:
    return replace(
        batch,
        labels=torch.empty_like(batch.labels, device=device),
        samples=torch.empty_like(batch.samples, device=device),
        views=torch.empty_like(batch.views, device=device),
        targets={name: each.empty_like(device) for name, each in batch.targets.items()},
        pixels=None if batch.pixels is None else torch.empty_like(batch.pixels, device=device),
        encoded=None,
    )
