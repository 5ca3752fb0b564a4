"""Recipes at toy size: the same method, terms and schedule on models of a few channels."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from kdcache.teacher.extract import extract
from kdcache.train.config import CheckpointConfig, EvalConfig, RunConfig
from tests.conftest import tiny_extract

# By the first part of a teacher's name: arguments of a toy of that architecture, and its taps.
_VIT = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "num_heads": 6, "num_classes": 10}
TEACHERS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "cait": ({**_VIT, "depth": 24, "init_values": 1.0}, [f"blocks.{block}/patch" for block in (0, 1, *range(16, 24))]),
    "shallow": ({**_VIT, "depth": 2, "init_values": 1.0}, ["blocks.0/patch", "blocks.-1/patch"]),
    "vit": ({**_VIT, "depth": 4}, ["blocks.-1/patch", "blocks.-1/prefix"]),
    "deit": ({**_VIT, "depth": 2}, ["blocks.-1/patch"]),
    "deit3": ({**_VIT, "depth": 2}, ["blocks.-1/patch"]),
    "swin": (
        {"img_size": 32, "patch_size": 2, "window_size": 2, "embed_dim": 6, "num_heads": (1, 1, 2, 2),
         "depths": (1, 1, 2, 1), "num_classes": 10},
        [f"blocks.{stage}/patch" for stage in range(4)],
    ),
}  # fmt: skip
_STUDENTS: dict[str, dict[str, Any]] = {
    "deit": {"patch_size": 4, "embed_dim": 12, "num_heads": 3, "depth": 12},
    "vit": {key: value for key, value in TEACHERS["vit"][0].items() if key not in ("img_size", "num_classes")},
    "swin": {key: value for key, value in TEACHERS["swin"][0].items() if key not in ("img_size", "num_classes")},
}


def toy_cache(root: Path, run: RunConfig) -> Path:
    """A cache of twelve digits by a toy of the teacher's architecture; made once in a folder."""
    family = (run.teacher or "cait").partition("_")[0]
    if family == "cait" and not _is_deep(run):
        family = "shallow"
    out = root / family
    if not out.is_dir():
        kwargs, taps = TEACHERS[family]
        name = run.teacher or "cait_s24_224"
        taps = [*taps, "head/logits"]
        extract(
            tiny_extract(
                out, teacher=name, teacher_kwargs=kwargs, taps=tuple(f"{tap}:fp16" for tap in taps), limit=12,
                views=3, view_recipe="rrc-flip", image_size=kwargs["img_size"],
            )
        )  # fmt: skip
    return out


def _is_deep(run: RunConfig) -> bool:
    """Whether it reads other blocks of the student than the first and the last."""
    blocks = {tap.block for term in run.method.active for tap in term.needs().student}
    return not blocks <= {None, 0, -1}


def toy_run(run: RunConfig, weights: str = "random") -> RunConfig:
    """Three steps of a recipe with its student at toy size; its method, terms and change stay as they are."""
    kwargs = dict(_STUDENTS[run.student.partition("_")[0]])
    if "depth" in kwargs and not _is_deep(run) and run.student.startswith("deit"):
        kwargs["depth"] = 2
    change = run.method.change
    if getattr(change, "width", None) is not None:
        change = replace(change, width=24)
    if hasattr(change, "rank"):
        change = replace(change, rank=4)
    return replace(
        run,
        student_kwargs=kwargs,
        student_weights=None if run.student_weights is None and not change.needs_weights else weights,
        method=replace(run.method, change=change),
        # The toys of other teachers stand for them by architecture, not by name.
        teacher=None,
        epochs=1,
        batch_size=4,
        log_every=1,
        checkpoint=CheckpointConfig(),
        scheduler=replace(run.scheduler, warmup_epochs=0),
        data=replace(run.data, num_threads=1),
        eval=EvalConfig(),
    )
