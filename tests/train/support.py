"""Runs small enough for tests."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from kdcache.config import apply_settings
from kdcache.methods.lift import lift
from kdcache.train.config import DataConfig, RunConfig
from kdcache.train.metrics import read_metrics
from tests.conftest import STUDENT_KWARGS


def tiny_run(*settings: str, **changes: Any) -> RunConfig:
    """Lift on a ViT of width 12, five steps an epoch."""
    config = RunConfig(
        student="vit_tiny_patch16_224",
        method=lift(teacher=("blocks.1/patch",)),
        student_kwargs=STUDENT_KWARGS,
        epochs=2,
        batch_size=4,
        log_every=1,
        data=DataConfig(codec="fp16", num_threads=1),
    )
    return apply_settings(replace(config, **changes), settings)


def losses(folder: Path) -> list[dict[str, float]]:
    """Loss terms and learning rate of every logged step, without the times."""
    left_out = ("kind", "time", "images_per_s", "stall_share")
    entries = read_metrics(folder, "step")
    return [{name: value for name, value in entry.items() if name not in left_out} for entry in entries]
