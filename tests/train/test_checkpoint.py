import resource
from pathlib import Path

import pytest
import torch

from kdcache.errors import DiskFullError, RunMismatchError
from kdcache.train.checkpoint import Checkpoints, checkpoint_step
from tests.conftest import flip_bit


def state(value: float) -> dict[str, object]:
    return {"weights": torch.full((1000,), value), "step": int(value), "nested": {"lr": [0.1, None]}}


def test_the_newest_come_back_and_old_ones_go(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.load_latest() is None
    for step in (1, 2, 3):
        checkpoints.save(step, state(step))
    assert [checkpoint_step(path) for path in checkpoints.paths()] == [2, 3]
    assert [path.name for path in checkpoints.paths()] == ["step-000000002.pt", "step-000000003.pt"]
    assert len(list(checkpoints.folder.iterdir())) == 4
    loaded = Checkpoints(tmp_path, keep=2).load_latest()
    assert loaded is not None
    assert torch.equal(loaded["weights"], torch.full((1000,), 3.0))


@pytest.mark.parametrize("damage", ["bit", "cut", "digest"])
def test_a_damaged_one_is_passed_over_loudly(tmp_path: Path, damage: str) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2):
        path = checkpoints.save(step, state(step))
    if damage == "bit":
        flip_bit(path, path.stat().st_size // 2)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    else:
        path.with_suffix(".sha256").unlink()
    warnings: list[str] = []
    loaded = checkpoints.load_latest(warnings.append)
    assert loaded is not None
    assert loaded["step"] == 1
    assert len(warnings) == 1
    assert "step-000000002.pt: damaged" in warnings[0]


def test_none_left_is_an_error_and_no_fresh_start(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    flip_bit(checkpoints.save(1, state(1)), 500)
    with pytest.raises(RunMismatchError, match="none of the 1 checkpoints is whole"):
        checkpoints.load_latest()


def test_a_full_disk_keeps_the_last_good_one(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, state(1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(DiskFullError, match="checkpoint is safe"):
            checkpoints.save(2, {"weights": torch.zeros(1 << 20)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    loaded = checkpoints.load_latest()
    assert loaded is not None
    assert loaded["step"] == 1
