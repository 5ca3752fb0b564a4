from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdcache.errors import UsageError
from kdcache.stream import config
from kdcache.stream.config import StreamConfig, plan_memory, usable_memory
from tests.stream.modes import needs_extension

MIB = 1 << 20
pytestmark = needs_extension


def plan(**changes: Any) -> config.MemoryPlan:
    """20 MiB of buffers and 50 shards of 10 MiB, of which four are in use, within 100 MiB; or other sizes."""
    buffer_bytes = changes.pop("buffer_bytes", 20 * MIB)
    shard_bytes = changes.pop("shard_bytes", [10 * MIB] * 50)
    settings = {"batch_size": 4, "memory_budget": 100 * MIB, "window": 4, **changes}
    return plan_memory(StreamConfig(**settings), buffer_bytes=buffer_bytes, shard_bytes=shard_bytes)


def test_what_is_left_goes_to_the_next_window() -> None:
    assert plan() == config.MemoryPlan("map", 80 * MIB, 4)
    assert plan(memory_budget=75 * MIB).shards_ahead == 1
    assert plan(memory_budget=60 * MIB).shards_ahead == 0


def test_few_shards_all_stay() -> None:
    assert plan(shard_bytes=[10 * MIB] * 3, memory_budget=50 * MIB) == config.MemoryPlan("map", 30 * MIB, 3)


def test_a_window_that_does_not_fit_is_read_and_not_mapped() -> None:
    found = plan(memory_budget=59 * MIB)
    assert (found.access, found.max_mapped_bytes) == ("read", 0)
    assert found.note == (
        "a window of 4 shards takes 40.0 MiB mapped, memory_budget leaves 39.0 MiB beside the batch buffers, so it is "
        "not mapped"
    )
    with pytest.raises(UsageError, match="use a smaller window"):
        plan(memory_budget=59 * MIB, access="map")


def test_the_largest_shards_count() -> None:
    assert plan(shard_bytes=[MIB] * 20 + [60 * MIB] * 2).access == "read"


def test_buffers_beyond_the_budget() -> None:
    with pytest.raises(UsageError, match=r"take 20.0 MiB, memory_budget is 19.0 MiB"):
        plan(memory_budget=19 * MIB)


def test_a_container_s_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = usable_memory()
    for text, expected in (("1048576\n", MIB), ("max\n", None), (str(1 << 60), None)):
        (tmp_path / "memory.max").write_text(text)
        monkeypatch.setattr(config, "_CGROUP_LIMIT", tmp_path / "memory.max")
        assert usable_memory() == (expected if expected is not None else max(machine, usable_memory()))
    assert plan(memory_budget=None, buffer_bytes=0).max_mapped_bytes == usable_memory() // 4


def test_without_a_map_nothing_is_budgeted_but_buffers() -> None:
    assert plan(access="read") == config.MemoryPlan("read", 0, 4)


@pytest.mark.parametrize("changes", [{"num_threads": 0}, {"num_buffers": 1}])
def test_impossible_settings(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be at least"):
        StreamConfig(batch_size=4, **changes)


def test_unknown_image_forms() -> None:
    with pytest.raises(ValueError, match="pixels, encoded or none, got 'jpeg'"):
        StreamConfig(batch_size=4, images="jpeg")


def test_in_order_one_shard_is_in_use_at_a_time() -> None:
    assert StreamConfig(batch_size=4, window=7).shards_at_once == 7
    assert StreamConfig(batch_size=4, window=7, shuffle=False).shards_at_once == 1


def test_subsets_by_class() -> None:
    assert StreamConfig(batch_size=4, seed=3, per_class="5").subset_seed == 3
    assert StreamConfig(batch_size=4, seed=3, per_class="5", per_class_seed=0).subset_seed == 0
    with pytest.raises(ValueError, match="per_class must be a number of images"):
        StreamConfig(batch_size=4, per_class="five")
    with pytest.raises(ValueError, match="per_class_seed=1 would be ignored"):
        StreamConfig(batch_size=4, per_class_seed=1)


def test_the_order_of_chosen_samples_keeps_to_their_shards() -> None:
    """Shards 0, 1 and 2 hold samples 0 to 3, 4 to 7, 8 to 11; none of shard 1 is chosen."""
    stream = StreamConfig(batch_size=2, window=1, per_class="1")
    order = stream.order([4, 4, 4], 1, np.array([1, 3, 8, 9, 11]))
    assert order.shard_sizes == (2, 0, 3)
    for epoch in range(4):
        samples = order.epoch(epoch).whole().tolist()
        assert sorted(samples) == [1, 3, 8, 9, 11]
        first = 2 if samples[0] < 4 else 3
        assert len({sample < 4 for sample in samples[:first]}) == 1, "a window of one shard"
