"""Our loaders under Hugging Face Accelerate, alone and with two processes."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from kdcache.cache import Cache
from tests.forked import start_ranks
from tests.integration import accelerate_worker
from tests.stream.contract import epochs
from tests.stream.test_contract import cache_loader


@pytest.mark.parametrize("processes", [1, 2])
def test_prepare_and_checkpoints(tiny_root: Path, tiny_cache: Cache, tmp_path: Path, processes: int) -> None:
    start_ranks(processes, accelerate_worker.main, str(tiny_root), str(tmp_path))
    ranks: list[dict[str, Any]] = [
        json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(processes)
    ]
    expected = [[row[0] for row in batch] for batch in epochs(cache_loader(tiny_cache, window=16, images="none"), 1)]
    together = [[*itertools.chain(*parts)] for parts in zip(*(rank["seen"] for rank in ranks), strict=True)]
    assert together == expected, "each process has its slice of the same global batches"
    for rank in ranks:
        assert rank["rest"] == rank["seen"][2:], "a checkpoint of Accelerate resumes the stream"
    views = [tuple(view) for rank in ranks for batch in rank["views"] for view in batch]
    assert len(views) == len(set(views)) == 40, "a map-style dataset is divided by Accelerate itself"
