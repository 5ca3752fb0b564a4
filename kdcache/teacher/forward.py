"""The computing stage: what the teacher gives for a batch, as the writer takes it."""

import time
from collections import deque
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kdcache.cache.column_builder import keeps_moments
from kdcache.cache.encoded import EncodedRecords
from kdcache.cache.group import GroupFingerprint
from kdcache.cache.record import Array
from kdcache.teacher.batches import RecordBatch, ShardEnd
from kdcache.teacher.device_encoding import DeviceEncoder, EncodingOnItsWay, can_encode_on_device
from kdcache.teacher.model import Teacher
from kdcache.teacher.pipeline import StageTimes

# On an accelerator the next batch is queued before the last one is waited for, so that it never runs dry.
_BATCHES_QUEUED = 1


@dataclass(frozen=True)
class TeacherOutputs:
    """The teacher's outputs for one batch.

    Args:
        values: By tap, float32 (B, *shape), for the columns that are encoded by the writer.
        encoded: By column, those that were encoded on the teacher's device.
    """

    values: Mapping[str, Array]
    encoded: Mapping[str, EncodedRecords] = field(default_factory=dict[str, EncodedRecords])


@dataclass(frozen=True)
class _Queued:
    """A forward that may still be running.

    Args:
        values: By tap, on their way to the host.
        encoding: By column.
        tap_of: Of each column in `encoding`.
        done: After which all copies are there; None where they are.
    """

    values: dict[str, Tensor]
    encoding: dict[str, EncodingOnItsWay]
    tap_of: dict[str, str]
    done: torch.cuda.Event | None

    def finish(self) -> TeacherOutputs:
        """Wait for the copies."""
        if self.done is not None:
            self.done.synchronize()
        values = {tap: each.numpy() for tap, each in self.values.items()}
        encoded: dict[str, EncodedRecords] = {}
        for name, queued in self.encoding.items():
            records = queued.finish()
            if records is None:
                # The writer looks at every value, and names the one that it refuses.
                values[self.tap_of[name]] = queued.values.cpu().numpy()
            else:
                encoded[name] = records
        return TeacherOutputs(values, encoded)


class Forward:
    """Runs a teacher over batches.

    On CUDA the token columns are encoded and summed on the device; elsewhere the writer does that.

    Args:
        teacher: With its taps set; None where only pixels are written.
        groups: What is written, by name.
        encodes: Whether to encode on the device; None where that pays.
    """

    def __init__(
        self, teacher: Teacher | None, groups: Mapping[str, GroupFingerprint], *, encodes: bool | None = None
    ) -> None:
        self._teacher = teacher
        self._is_cuda = teacher is not None and teacher.device.type == "cuda"
        encodes = self._is_cuda if encodes is None else encodes
        self._encoders: list[DeviceEncoder] = []
        self._host_taps: set[str] = set()
        for group in groups.values():
            for facts in group.columns:
                if encodes and can_encode_on_device(facts):
                    self._encoders.append(DeviceEncoder(facts, with_moments=keeps_moments(facts, group.statistics)))
                elif facts.kind != "pixels":
                    self._host_taps.add(facts.tap)
        self._queued = _BATCHES_QUEUED if self._is_cuda else 0

    def run(
        self, batches: Iterable[RecordBatch | ShardEnd], times: StageTimes
    ) -> Generator[tuple[RecordBatch | ShardEnd, TeacherOutputs | None]]:
        """Each item in its order, with the teacher's outputs where it has any.

        Args:
            batches: What to run; a batch of a shard of which only the images are pending needs no teacher.
            times: Gets the seconds spent here.

        Raises: KdcacheError when the accelerator runs out of memory.
        """
        waiting: deque[tuple[RecordBatch | ShardEnd, _Queued | None]] = deque()
        for item in batches:
            asked = time.perf_counter()
            queued = self._start(item) if isinstance(item, RecordBatch) and item.task.groups else None
            waiting.append((item, queued))
            times.compute_s += time.perf_counter() - asked
            yield from self._finished(waiting, times, keep=self._queued)
        yield from self._finished(waiting, times, keep=0)

    def _finished(
        self, waiting: deque[tuple[RecordBatch | ShardEnd, _Queued | None]], times: StageTimes, *, keep: int
    ) -> Generator[tuple[RecordBatch | ShardEnd, TeacherOutputs | None]]:
        while len(waiting) > keep:
            item, queued = waiting.popleft()
            asked = time.perf_counter()
            outputs = queued.finish() if queued is not None else None
            times.compute_s += time.perf_counter() - asked
            yield item, outputs

    def _start(self, batch: RecordBatch) -> _Queued | None:
        teacher = self._teacher
        if teacher is None:
            return None
        with teacher.on_its_device(len(batch.pixels)):
            outputs = teacher.outputs(teacher.to_device(batch.pixels))
            encoding = {each.facts.name: each.start(outputs[each.facts.tap]) for each in self._encoders}
            values = {tap: outputs[tap].to("cpu", non_blocking=True) for tap in self._host_taps}
        done = None
        if self._is_cuda:
            done = torch.cuda.Event()
            done.record(torch.cuda.current_stream(teacher.device))
        return _Queued(values, encoding, {each.facts.name: each.facts.tap for each in self._encoders}, done)
