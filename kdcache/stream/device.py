"""Batches on their way to an accelerator: the copy of the next one overlaps the step on the present one."""

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar, final

import torch

from kdcache.ordered_map import ordered_map
from kdcache.stream.batch import Batch, BatchBuffers

_SLOTS = 2

P = ParamSpec("P")
Result = TypeVar("Result")


def resolved(device: torch.device) -> torch.device:
    """The device with its number: ``cuda`` is the one that is current now."""
    if device.type == "cpu" or device.index is not None:
        return device
    return torch.device(device.type, torch.get_device_module(device).current_device())


@final
class _Immediate(Executor):
    """Makes calls at once: what is in flight is the copy that each of them begins, on a stream of the device."""

    def submit(self, fn: Callable[P, Result], /, *args: P.args, **kwargs: P.kwargs) -> Future[Result]:
        begun: Future[Result] = Future()
        begun.set_result(fn(*args, **kwargs))
        return begun


@final
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
        self._done: Any = None

    def deliver(self, filled: Iterable[BatchBuffers]) -> Generator[Batch]:
        """Copy batches over.

        A batch may be used, on the stream that is current when it is asked for, until the next one is asked for.

        Args:
            filled: Host buffers, each valid until the next is asked for.
        """
        for batch, done in ordered_map(self._begin, self._copied(filled), _Immediate(), ahead=_SLOTS):
            self._current_stream().wait_event(done)
            yield batch

    def _copied(self, filled: Iterable[BatchBuffers]) -> Iterator[tuple[int, BatchBuffers]]:
        for number, buffers in enumerate(filled):
            yield number, buffers
            self._done.synchronize()  # the host buffer is filled again as soon as the next one is asked for

    def _begin(self, numbered: tuple[int, BatchBuffers]) -> tuple[Batch, Any]:
        number, host = numbered[0], numbered[1].batch
        self._copies.wait_stream(self._current_stream())  # the step that used this slot was queued before
        with self._module.stream(self._copies):
            slot = self._slots[number % _SLOTS]
            if slot is None:
                empty = host.mapped(lambda values: torch.empty_like(values, device=self._device))
                slot = self._slots[number % _SLOTS] = replace(empty, encoded=None)
            for there, here in zip(slot.tensors(), host.tensors(), strict=True):
                there.copy_(here, non_blocking=True)
            self._done = self._module.Event()
            self._done.record(self._copies)
        return replace(slot, encoded=None if host.encoded is None else host.encoded.clone()), self._done

    def _current_stream(self) -> Any:
        return self._module.current_stream(**self._where)
