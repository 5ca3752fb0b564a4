"""What a pass is said to take is what it takes, within the factors that are said with it."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from kdcache.distributed.env import WorkerEnv, worker_env
from kdcache.images import open_source
from kdcache.teacher.config import ExtractConfig
from kdcache.teacher.estimate import PassEstimate, estimate_pass
from kdcache.teacher.extract import extract
from kdcache.teacher.source_plan import plan_source
from tests.conftest import TEACHER_KWARGS, tiny_extract
from tests.teacher.test_space import written


def estimate(config: ExtractConfig, env: WorkerEnv | None = None) -> PassEstimate:
    assert config.data is not None
    return estimate_pass(config, plan_source(open_source(config.data), config), env or worker_env())


def test_bytes_are_near_what_the_pass_writes(tmp_path: Path) -> None:
    config = tiny_extract(tmp_path / "c", taps=("blocks.-1/patch", "head/logits"), limit=150, shard_samples=50)
    found = estimate(config)
    assert (found.num_images, found.num_views, found.unknown) == (150, 300, "")
    extract(config)
    assert found.size_bytes is not None
    assert written(tmp_path / "c") <= found.size_bytes < 1.4 * written(tmp_path / "c")
    assert found.teacher_s is not None
    assert found.teacher_s > 0


def test_what_is_done_is_not_counted_again(tiny_root: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(tiny_root, tmp_path / "c"))
    done = estimate(tiny_extract(root))
    assert (done.num_images, done.num_views, done.size_bytes, done.teacher_s) == (0, 0, 0, 0.0)
    (root / "vit-tiny-patch16-224" / "index" / "train-000002.h5").unlink()
    assert (estimate(tiny_extract(root)).num_images, estimate(tiny_extract(root)).num_views) == (4, 8)


@pytest.mark.parametrize(
    "changes",
    [
        {"teacher": "no_such_model"},
        {"teacher_kwargs": {"no_such": 1}},
        {"taps": ("blocks.99/patch",)},
        {"codec": "none"},
    ],
    ids=str,
)
def test_what_cannot_be_told_is_said_and_stops_nothing(tmp_path: Path, changes: dict[str, Any]) -> None:
    found = estimate(tiny_extract(tmp_path / "c", **{"taps": ("blocks.-1/patch",), **changes}))
    assert (found.size_bytes, found.teacher_s, found.num_images) == (None, None, 20)
    assert found.unknown
    assert found.free_bytes > 0


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224"])
@pytest.mark.slow
def test_other_families_can_be_told_too(tmp_path: Path, name: str) -> None:
    """Zeros in place of tables of positions are valid indices, whatever memory held before."""
    config = tiny_extract(
        tmp_path / "c", teacher=name, teacher_kwargs={}, image_size=224, taps=("head/logits",), limit=1
    )
    assert estimate(config).unknown == ""


def test_a_size_as_two_sides_is_understood(tmp_path: Path) -> None:
    """As timm spells it."""
    kwargs = {**TEACHER_KWARGS, "img_size": [16, 16]}
    assert estimate(tiny_extract(tmp_path / "c", teacher_kwargs=kwargs)).unknown == ""


def test_several_workers_share_the_time(tmp_path: Path) -> None:
    config = tiny_extract(tmp_path / "c", limit=200)
    alone = estimate(config)
    four = estimate(config, WorkerEnv(rank=0, world_size=4, local_rank=0, job_id="j"))
    assert alone.teacher_s is not None
    assert four.teacher_s is not None
    assert four.size_bytes == alone.size_bytes
    assert four.teacher_s < alone.teacher_s
