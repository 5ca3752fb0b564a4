"""Run folders that no training made."""

import json
from pathlib import Path
from typing import Any

CROSS_ENTROPY = {"name": "cross-entropy", "weight": 0.1, "label_smoothing": 0.1}
LOGITS = {"name": "logits", "weight": 0.9, "teacher": "", "temperature": 1.0}
TOKEN_TERM = {
    "name": "tokens",
    "weight": 0.2,
    "teacher": [],
    "student_block": [],
    "resize": "refuse",
    "transform": "none",
    "loss": "mse",
    "adapter": "none",
}
METHODS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "none": ("none", [{**CROSS_ENTROPY, "weight": 1.0}]),
    "logit": ("none", [CROSS_ENTROPY, LOGITS]),
    "feature": ("none", [CROSS_ENTROPY, LOGITS, {**TOKEN_TERM, "adapter": "linear"}]),
    "lift": ("lift", [CROSS_ENTROPY, LOGITS, TOKEN_TERM]),
    "lift-control": ("lift", [CROSS_ENTROPY, LOGITS]),
    "widelast": ("widelast", [CROSS_ENTROPY, LOGITS, TOKEN_TERM]),
}
STUDENT = "vit_tiny_patch16_224"
STUDENT_KWARGS = {"img_size": 16, "patch_size": 4, "embed_dim": 6, "depth": 2, "num_heads": 3}
COLUMN = "vit-tiny-patch16-224/blocks-1-patch-fp16"
# Unweighted, mean over the last epoch.
LOSSES = {"cross-entropy": 0.5, "logits": 0.25, "tokens": 0.125}


def write_run(
    folder: Path,
    *,
    method: str = "lift",
    finished: bool = True,
    steps: int = 4,
    seed: int = 0,
    cache: str = "ab" * 32,
    term: dict[str, Any] | None = None,
    width: int | None = None,
    **summary: Any,
) -> Path:
    """A training run's folder as `kdcache train` leaves it, without weights.

    Args:
        folder, finished, steps: Of the run.
        method: One of `METHODS`.
        seed: Of the run.
        cache: Digest of what it streamed.
        term: Changes of the settings of its term on tokens.
        width: Of its student change, written out.
        summary: Changes of the summary.
    """
    folder.mkdir(parents=True)
    change, terms = METHODS[method]
    terms = [{**each, **(term or {})} if each["name"] == "tokens" else each for each in terms]
    lines: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        rate = {"images_per_s": 900.0, "stall_share": 0.1 / step}
        entry = {"kind": "step", "step": 10 * step, "epoch": step // 3, "lr": 1e-3, "loss": 2.0 / step, **rate}
        lines.append({**entry, **{each["name"]: 1.0 / step for each in terms}})
    tops = [50.0, 80.0, 75.0]
    lines += [{"kind": "eval", "step": 20, "epoch": at, "top1": top, "num_images": 360} for at, top in enumerate(tops)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = {
        "student": STUDENT,
        "student_kwargs": STUDENT_KWARGS,
        "method": {"name": method.removesuffix("-control"), "change": {"name": change, "width": width}, "terms": terms},
        "epochs": 3,
        "seed": seed,
    }
    record = {"config": config, "cache": cache, "versions": {"torch": "2.6.0"}}
    (folder / "config.json").write_text(json.dumps(record))
    if finished:
        (folder / "summary.json").write_text(json.dumps({**run_summary(method, term), **summary}))
    return folder


def run_summary(method: str, term: dict[str, Any] | None = None) -> dict[str, Any]:
    """A finished run's figures."""
    change, terms = METHODS[method]
    return {
        "top1": 75.0,
        "top5": 99.0,
        "num_images": 360,
        "best_top1": 80.0,
        "method": method.removesuffix("-control"),
        "student": STUDENT,
        "num_parameters": {"none": 122074, "lift": 125000, "widelast": 161000}[change],
        "images_per_s": 900.5,
        "stall_share": 0.031,
        "target_bytes_per_view": 5120,
        "peak_memory_bytes": 923_000_000,
        "terms": [_term_summary(each, change, term or {}) for each in terms],
    }


def _term_summary(each: dict[str, Any], change: str, changes: dict[str, Any]) -> dict[str, Any]:
    name, is_tokens = each["name"], each["name"] == "tokens"
    settings = {key: value for key, value in {**each, **changes}.items() if key not in ("name", "weight")}
    columns = {"logits": ["vit-tiny-patch16-224/head-logits-fp16"], "tokens": [COLUMN]}
    return {
        "label": name,
        "name": changes.get("name", name) if is_tokens else name,
        "weight": each["weight"],
        "loss": LOSSES[name],
        "columns": columns.get(name, []),
        "student_taps": ["change/tokens" if change == "lift" else "blocks.1/patch"] if is_tokens else [],
        "settings": settings if is_tokens else {key: each[key] for key in each if key not in ("name", "weight")},
    }
