"""Our loaders under Hugging Face Accelerate, alone and with two processes."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kdcache.cache import Cache
from tests.stream.contract import epochs
from tests.stream.test_contract import cache_loader

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("processes", [1, 2])
def test_prepare_and_checkpoints(tiny_root: Path, tiny_cache: Cache, tmp_path: Path, processes: int) -> None:
    environment = {**os.environ, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    script = ROOT / "tests/integration/accelerate_worker.py"
    done = subprocess.run(
        [*command, str(script), str(tiny_root), str(tmp_path)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
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
