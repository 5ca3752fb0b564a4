"""How fast a cache streams here, relative to this machine's memcpy, and how long a training step would wait for it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from kdcache.cache.cache import Cache
from kdcache.cache.column import Column
from kdcache.cache.facts import pixel_column
from kdcache.costs.memcpy import Memcpy
from kdcache.errors import UsageError
from kdcache.images import Source
from kdcache.reading.files import describe
from kdcache.stream.batch import Batch
from kdcache.stream.config import StreamConfig
from kdcache.stream.loader import CacheLoader
from kdcache.stream.order import StreamOrder, rank_correlation

_REPEATS = 5
_STEP_MATRIX = 256
# Times what was asked for, before an epoch is left unfinished.
_LONGEST_WARM_UP, _LONGEST_TURN = 5, 2


@dataclass(frozen=True)
class Rate:
    """Samples and bytes a second."""

    samples_per_s: float
    bytes_per_s: float


def bench_stream(
    cache: Cache,
    columns: Sequence[Column],
    config: StreamConfig,
    *,
    source: Source | None = None,
    seconds: float = 3.0,
    step_ms: float = 50.0,
) -> dict[str, Any]:
    """Measure a stream.

    Repeats of the whole stream and of its stages alone are interleaved, with a memcpy before and after each repeat.

    Args:
        cache, columns, config, source: As for CacheLoader.
        seconds: For all repeats of one measurement together.
        step_ms: Length of the training step for the stalls; it computes on the calling thread as a step on a CPU
            does.

    Returns: medians; a flat mapping of numbers.
    """
    if not columns and config.images == "none":
        raise UsageError("there is nothing to stream: neither columns nor images")
    loader = CacheLoader(cache, columns, config, source=source)
    first_batch_s, warm_s = _warm_up(loader, seconds)
    stages = _stages(cache, columns, config, source)
    for stage in stages.values():
        _warm_up(stage, seconds)
    batch_bytes = _batch_bytes(next(iter(loader)))
    memcpy = Memcpy(batch_bytes, config.num_buffers)
    memcpy.bytes_per_s()  # its pages are fresh the first time
    rates: list[Rate] = []
    copies: list[float] = []
    alone: dict[str, list[Rate]] = {name: [] for name in stages}
    for _ in range(_REPEATS):
        before = memcpy.bytes_per_s(seconds / _REPEATS / 4)
        rates.append(stream_rate(loader, seconds / _REPEATS))
        copies.append((before + memcpy.bytes_per_s(seconds / _REPEATS / 4)) / 2)
        for name, stage in stages.items():
            alone[name].append(stream_rate(stage, seconds / _REPEATS))
    stage_rates = {name: _median([rate.samples_per_s for rate in each]) for name, each in alone.items()}
    memory = loader.records.memory
    pixels = loader.records.pixels
    return {
        "batch_size": config.batch_size,
        "shuffle": config.shuffle,
        "images": config.images,
        "pixels": "none" if config.images != "pixels" else "replay" if pixels is None else pixels.codec,
        "threads": config.threads,
        "gather": describe(memory.access),
        "memory_note": memory.note,
        "samples_per_s": _median([rate.samples_per_s for rate in rates]),
        "gb_per_s": _median([rate.bytes_per_s for rate in rates]) / 1e9,
        "memcpy_gb_per_s": _median(copies) / 1e9,
        "ratio_to_memcpy": _median([rate.bytes_per_s / copy for rate, copy in zip(rates, copies, strict=True)]),
        "stages_samples_per_s": stage_rates,
        "limited_by": min(stage_rates, key=lambda name: stage_rates[name]),
        "raw_pixels": _raw_pixels(cache, columns, stage_rates) if config.images == "pixels" and not pixels else None,
        "first_batch_s": first_batch_s,
        "first_epoch_s": warm_s,
        "step_ms": step_ms,
        "stall_share": _stall_share(loader, step_ms / 1000, seconds),
        "order": _order_facts(loader.order),
    }


def _stages(
    cache: Cache, columns: Sequence[Column], config: StreamConfig, source: Source | None
) -> dict[str, CacheLoader]:
    stages: dict[str, CacheLoader] = {}
    if columns:
        stages["targets"] = CacheLoader(cache, columns, replace(config, images="none"))
    if config.images != "none":
        stages["images"] = CacheLoader(cache, [], config, source=source)
    return stages


def _raw_pixels(cache: Cache, columns: Sequence[Column], alone: dict[str, float]) -> dict[str, float] | None:
    """What raw pixels would change: an estimate from the rate at which targets are gathered here.

    Returns: samples/s of the whole stream, how many times as fast that is as the slower stage now, and bytes on disk;
        None where no targets were gathered.
    """
    target_bytes = sum(column.layout().payload_bytes for column in columns)
    if "targets" not in alone or not target_bytes:
        return None
    views = cache.manifest.fingerprint.views
    pixel_bytes = 3 * views.size**2
    rate = alone["targets"] * target_bytes / (target_bytes + pixel_bytes)
    stride = pixel_column(views.size, jpeg_quality=0).stride_bytes
    return {
        "samples_per_s": rate,
        "times_as_fast": rate / min(alone.values()),
        "bytes": float(stride * cache.manifest.num_records),
    }


def _warm_up(loader: CacheLoader, seconds: float) -> tuple[float, float | None]:
    """Seconds to the first batch and, unless it takes much longer than asked for, to the end of the first epoch."""
    began, first = time.perf_counter(), 0.0
    for number, _ in enumerate(loader):
        passed = time.perf_counter() - began
        first = passed if number == 0 else first
        if passed > _LONGEST_WARM_UP * seconds:
            return first, None
    return first, time.perf_counter() - began


def stream_rate(loader: CacheLoader, seconds: float) -> Rate:
    """How fast a stream is: over whole epochs where they are short, else over part of one.

    Args:
        loader: The stream; its first epoch also opens files.
        seconds: For about how long.
    """
    rows, size, began = 0, 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds or not rows:
        for batch in loader:
            rows += len(batch)
            size += _batch_bytes(batch)
            if time.perf_counter() - began > _LONGEST_TURN * seconds:
                break
    return Rate(rows / passed, size / passed)


def _batch_bytes(batch: Batch) -> int:
    encoded = 0 if batch.encoded is None else batch.encoded.data.nbytes
    return encoded + sum(tensor.nbytes for tensor in batch.tensors())


def _stall_share(loader: CacheLoader, step_s: float, seconds: float) -> float:
    """Fraction of the time that a step of this length spends waiting, from the second batch on."""
    waited, total, factors = 0.0, 0.0, torch.randn(2, _STEP_MATRIX, _STEP_MATRIX)
    while total < seconds:
        mark: tuple[float, float] | None = None
        for _ in loader:
            now = time.perf_counter()
            if mark is not None:
                waited += loader.wait_s - mark[1]
                total += now - mark[0]
            mark = now, loader.wait_s
            while time.perf_counter() - now < step_s:
                torch.mm(factors[0], factors[1])
            if total > seconds:
                break
        total += step_s if mark is None or len(loader) == 1 else 0.0  # an epoch of one batch never ends the loop
    return waited / total


def _order_facts(order: StreamOrder) -> dict[str, float]:
    """How well the order is mixed: 0 is what a full shuffle gives on average, 1 is no mixing at all."""
    first, second = order.epoch(0).whole(), order.epoch(1).whole()
    return {
        "window": order.window,
        "shards": len(order.shard_sizes),
        "correlation_with_source": rank_correlation(first, np.arange(len(first))),
        "correlation_of_epochs": rank_correlation(first, second),
    }


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))
