import time
from dataclasses import replace

import numpy as np
import pytest

from kdcache.cache import Cache
from kdcache.costs.streaming import bench_stream
from kdcache.images import decode_files
from kdcache.packed import PackedFiles
from kdcache.pixel_rule import PixelRule
from kdcache.stream.config import StreamConfig

CONFIG = StreamConfig(batch_size=4, num_threads=2, window=2)


def slowly(files: PackedFiles, rule: PixelRule) -> list[np.ndarray | None]:
    """A decoder that takes 20 ms an image for certain."""
    time.sleep(0.02 * len(files))
    return decode_files(files, rule)


@pytest.mark.slow
def test_every_stage_is_measured(tiny_cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that is slow for certain limits, whatever else this machine is busy with."""

    monkeypatch.setattr("kdcache.stream.images.decode_files", slowly)
    columns = tiny_cache.columns
    result = bench_stream(tiny_cache, columns, CONFIG, seconds=0.1, step_ms=2)
    assert set(result["stages_samples_per_s"]) == {"targets", "images"}
    assert result["limited_by"] == "images"
    batch_bytes = 16 * 16 * 3 * 4 + 4 * sum(column.layout().payload_bytes for column in columns) + 3 * 4 * 8
    assert result["gb_per_s"] * 1e9 / result["samples_per_s"] == pytest.approx(batch_bytes / 4, rel=0.2)
    assert 0 <= result["stall_share"] < 1
    assert result["order"]["window"] == 2


@pytest.mark.slow
def test_a_slow_step_never_waits_and_a_fast_one_does(tiny_cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch takes two threads 40 ms of sleep: less than the slow step, and nearly all of the fast one's time."""
    monkeypatch.setattr("kdcache.stream.images.decode_files", slowly)
    columns = tiny_cache.columns
    slow, fast = (bench_stream(tiny_cache, columns, CONFIG, seconds=0.2, step_ms=each) for each in (100, 0.001))
    assert slow["stall_share"] < fast["stall_share"]


@pytest.mark.parametrize("images", ["none", "encoded"])
def test_streams_without_pixels(tiny_cache: Cache, images: str) -> None:
    config = replace(CONFIG, images=images)
    result = bench_stream(tiny_cache, tiny_cache.columns[:1], config, seconds=0.05, step_ms=1)
    assert result["images"] == images


def test_an_epoch_of_one_batch(tiny_cache: Cache) -> None:
    config = replace(CONFIG, batch_size=20)
    result = bench_stream(tiny_cache, [], config, seconds=0.05, step_ms=1)
    assert result["limited_by"] == "images"
