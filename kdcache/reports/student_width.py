"""Channels of the students of runs, before a method changed them."""

import json
from collections.abc import Sequence
from functools import cache

import torch

from kdcache.errors import KdcacheError
from kdcache.models.build import create_timm_model
from kdcache.reports.inputs import AnalysisInput, RunInput
from kdcache.reports.run_terms import feature_terms


def block_widths(run: RunInput) -> tuple[int, ...] | None:
    """Channels of each block of a run's student as timm builds it; None where it cannot be built here."""
    found = run.record.get("config")
    config = found if isinstance(found, dict) else {}
    name = config.get("student")
    if not isinstance(name, str) or ":" in name:
        # A model on a hub would need the network.
        return None
    return _widths(name, json.dumps(config.get("student_kwargs") or {}, sort_keys=True))


def student_widths(each: AnalysisInput, column: str, runs: Sequence[RunInput]) -> dict[str, int]:
    """Students and their widths: the one that an analysis is about, else those of runs on this column."""
    found = each.analysis.diagnosis
    if found is not None:
        return {found.student: found.student_width}
    widths: dict[str, int] = {}
    for run in runs:
        reads = any(column in term.columns for term in feature_terms(run))
        if column and reads and (known := block_widths(run)) is not None:
            widths[str(run.record["config"]["student"])] = known[-1]
    return widths


@cache
def _widths(name: str, kwargs: str) -> tuple[int, ...] | None:
    try:
        with torch.device("meta"):
            model = create_timm_model(name, kwargs=json.loads(kwargs))
    except KdcacheError:
        return None
    return tuple(info["num_chs"] for info in model.feature_info)  # pyright: ignore
