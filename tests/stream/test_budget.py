from pathlib import Path
from typing import Any

import pytest

from kdcache.errors import UsageError
from kdcache.stream import budget
from kdcache.stream.budget import plan_memory, usable_memory
from tests.stream.ways import needs_extension

MIB = 1 << 20
pytestmark = needs_extension


def plan(**changes: Any) -> budget.MemoryPlan:
    settings: dict[str, Any] = {
        "budget": 100 * MIB,
        "buffer_bytes": 20 * MIB,
        "shard_bytes": [10 * MIB] * 50,
        "window": 4,
        "access": "auto",
    }
    return plan_memory(**{**settings, **changes})


def test_what_is_left_goes_to_the_next_window() -> None:
    assert plan() == budget.MemoryPlan("map", 80 * MIB, 4)
    assert plan(budget=75 * MIB).shards_ahead == 1
    assert plan(budget=60 * MIB).shards_ahead == 0


def test_few_shards_all_stay() -> None:
    assert plan(shard_bytes=[10 * MIB] * 3, budget=50 * MIB) == budget.MemoryPlan("map", 30 * MIB, 3)


def test_a_window_that_does_not_fit_is_read_and_not_mapped() -> None:
    found = plan(budget=59 * MIB)
    assert (found.access, found.max_mapped_bytes) == ("read", 0)
    assert found.note == (
        "a window of 4 shards takes 40.0 MiB mapped, memory_budget leaves 39.0 MiB beside the batch buffers, so it is "
        "not mapped"
    )
    with pytest.raises(UsageError, match="use a smaller window"):
        plan(budget=59 * MIB, access="map")


def test_the_largest_shards_count() -> None:
    assert plan(shard_bytes=[MIB] * 20 + [60 * MIB] * 2).access == "read"


def test_buffers_beyond_the_budget() -> None:
    with pytest.raises(UsageError, match=r"take 20.0 MiB, memory_budget is 19.0 MiB"):
        plan(budget=19 * MIB)


def test_a_container_s_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = usable_memory()
    for text, expected in (("1048576\n", MIB), ("max\n", None), (str(1 << 60), None)):
        (tmp_path / "memory.max").write_text(text)
        monkeypatch.setattr(budget, "_CGROUP_LIMIT", tmp_path / "memory.max")
        assert usable_memory() == (expected if expected is not None else max(machine, usable_memory()))
    assert plan(budget=None, buffer_bytes=0).max_mapped_bytes == usable_memory() // 4


def test_without_a_map_nothing_is_budgeted_but_buffers() -> None:
    assert plan(access="read") == budget.MemoryPlan("read", 0, 4)
