"""Runs small enough for tests."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from kdcache.config import apply_settings
from kdcache.methods import LiftConfig
from kdcache.train.config import DataConfig, RunConfig
from kdcache.train.metrics import read_metrics
from tests.conftest import STUDENT_KWARGS


def tiny_run(*settings: str, **changes: Any) -> RunConfig:
    """Lift on a ViT of width 12, five steps an epoch."""
    config = RunConfig(
        student="vit_tiny_patch16_224",
        method=LiftConfig(tap="blocks.1/patch"),
        student_kwargs=STUDENT_KWARGS,
        epochs=2,
        batch_size=4,
        log_every=1,
        data=DataConfig(codec="fp16", logits_codec="fp16", num_threads=1),
    )
    return apply_settings(replace(config, **changes), settings)


def losses(folder: Path) -> list[dict[str, float]]:
    """Loss terms and learning rate of every logged step, without the times."""
    kept = ("step", "epoch", "lr", "loss", "ce", "kl", "feature")
    return [{name: entry[name] for name in kept if name in entry} for entry in read_metrics(folder, "step")]
