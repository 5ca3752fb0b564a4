"""What a student's step, the teacher inside the loop and reading take here: real steps on a small cache."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from kdcache.cache.cache import Cache
from kdcache.cache.column import Column
from kdcache.distributed.env import WorkerEnv
from kdcache.distributed.process_group import choose_device
from kdcache.errors import UsageError
from kdcache.images import Source
from kdcache.methods.base import Method
from kdcache.planning.pixel_forms import read_seconds
from kdcache.stream.batch import Batch
from kdcache.stream.config import StreamConfig
from kdcache.stream.loader import CacheLoader
from kdcache.teacher.online import online_teachers
from kdcache.terms.base import Term
from kdcache.terms.logits import Logits
from kdcache.terms.tokens import Tokens
from kdcache.train.config import RunConfig
from kdcache.train.setup import prepare
from kdcache.train.trainer import Trainer

_ALONE = WorkerEnv(0, 1, 0, "plan")
_PROBE_ROWS = 4
_WANTED_REPEATS, _MOST_REPEATS = 2, 20


@dataclass(frozen=True, kw_only=True)
class StudentConfig:
    """The student of a plan.

    Args:
        name: timm model name.
        kwargs: Its further arguments.
        batch_size: Views in a step, where the machine makes some in the time.
        device: As in RunConfig.
    """

    name: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    batch_size: int = 64
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"the student's batch size must be at least 1, got {self.batch_size}")


@dataclass(frozen=True)
class TrainingCosts:
    """Measured with a small cache in memory.

    Args:
        device: Where the steps ran.
        batch_size: Views in a measured step.
        step_s: Seconds a view of the student's optimizer step.
        teacher_s: Seconds a view of the teacher's forward before it.
        cached_read_s: Seconds a view to read all columns and the pixels, as the cache stores them.
        online_read_s: Seconds a view to read and cut the images alone.
        cached_peak_bytes, online_peak_bytes: Most memory of the accelerator in steps without and with the teacher; None
            on a CPU, where the process holds both.
    """

    device: str
    batch_size: int
    step_s: float
    teacher_s: float
    cached_read_s: float
    online_read_s: float
    cached_peak_bytes: int | None
    online_peak_bytes: int | None


def usual_method(cache: Cache) -> Method:
    """Logits where the cache has some, and its first column of patch tokens through a linear layer; no labels.

    Raises: UsageError for a cache of which nothing can be learned.
    """
    kinds = {kind: [each for each in cache.columns if each.kind == kind] for kind in ("logits", "patch", "embedding")}
    tokens = kinds["patch"] or kinds["embedding"]
    terms: list[Term] = [Logits(teacher=_reference(each)) for each in kinds["logits"][:1]]
    terms += [Tokens(teacher=(_reference(each),), resize="student") for each in tokens[:1]]
    if not terms:
        raise UsageError("a plan measures a student of patch tokens, logits or the embedding: keep one of them")
    return Method(name="plan", terms=tuple(terms))


def measure_training(cache: Cache, student: StudentConfig, *, source: Source | None, seconds: float) -> TrainingCosts:
    """Run real steps and streams.

    Args:
        cache: A small one.
        student: What is trained.
        source: The images, for a cache that refers to them.
        seconds: About how long each of the four measurements shall take.

    Raises: any KdcacheError of a run that cannot begin.
    """
    device = choose_device(student.device, _ALONE)
    size = min(student.batch_size, cache.manifest.num_samples)
    config = RunConfig(
        student=student.name,
        student_kwargs=student.kwargs,
        method=usual_method(cache),
        batch_size=size,
        device=student.device,
    )
    setup = prepare(config, cache)
    trainer = Trainer(config, setup, _ALONE, device, steps_per_epoch=_MOST_REPEATS)
    probe = _batch(cache, setup.columns, min(_PROBE_ROWS, size), source).to(device)
    one = _median_s(lambda: trainer.step(probe, 0), device, 0.0) / len(probe)
    size = max(len(probe), min(size, int(seconds / _WANTED_REPEATS / one)))
    batch = probe if size == len(probe) else _batch(cache, setup.columns, size, source).to(device)
    _reset_peak(device)
    step_s = _median_s(lambda: trainer.step(batch, 0), device, seconds) / size
    cached_peak = _peak(device)
    targets = online_teachers(cache, setup.columns, device)
    teacher_s = _median_s(lambda: targets(batch), device, seconds) / size
    trainer.step(batch, 0)
    return TrainingCosts(
        device.type,
        size,
        step_s,
        teacher_s,
        read_seconds(cache, cache.columns, "auto", source, seconds),
        read_seconds(cache, [], "replay", source, seconds),
        cached_peak,
        _peak(device),
    )


def _reference(column: Column) -> str:
    return f"{column.group}:{column.tap}:{column.codec}"


def _batch(cache: Cache, columns: list[Column], size: int, source: Source | None) -> Batch:
    return next(iter(CacheLoader(cache, columns, StreamConfig(batch_size=size), source=source))).clone()


def _median_s(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Median of some calls, after one that is not counted; where one takes longer than the time asked for, that one."""
    times: list[float] = []
    work()
    while not times or (sum(times) < seconds and len(times) < _MOST_REPEATS):
        _synchronize(device)
        began = time.perf_counter()
        work()
        _synchronize(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
