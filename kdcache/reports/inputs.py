"""What a page is made from: folders, recognised by what lies in them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcache.analysis.folder import RESULT, read_analysis
from kdcache.analysis.result import Analysis, Curves
from kdcache.cache.cache import Cache, open_cache
from kdcache.cache.job import read_ledger
from kdcache.cache.paths import LEDGER, CachePaths
from kdcache.cache.writer import BadSample
from kdcache.errors import CorruptCacheError, UsageError
from kdcache.remote import Location, RemoteUrl
from kdcache.strict_json import load_json
from kdcache.train.folder import SUMMARY, read_summary
from kdcache.train.metrics import read_metrics

_METRICS, _CONFIG = "metrics.jsonl", "config.json"


@dataclass(frozen=True)
class AnalysisInput:
    """One analysis; `label` is unique among them, `number` tells its figures from those of others."""

    label: str
    number: int
    folder: Path
    analysis: Analysis
    curves: Curves


@dataclass(frozen=True)
class RunInput:
    """One training run.

    Args:
        label: Unique among the runs.
        folder: Where it lies.
        summary: Its figures; None while it is not finished.
        record: Its config.json; empty without one.
        steps, evals: Its metrics.
        teacher_top1: In percent, where a demo says it.
    """

    label: str
    folder: Path
    summary: dict[str, Any] | None
    record: dict[str, Any]
    steps: list[dict[str, Any]]
    evals: list[dict[str, Any]]
    teacher_top1: float | None


@dataclass(frozen=True)
class CacheInput:
    """One cache and its bad images."""

    label: str
    cache: Cache
    bad: list[BadSample]


@dataclass(frozen=True)
class Inputs:
    """Everything on the page."""

    analyses: list[AnalysisInput]
    runs: list[RunInput]
    caches: list[CacheInput]


@dataclass(frozen=True)
class _RunFolder:
    name: str
    path: Path
    teacher_top1: float | None


def read_inputs(folders: Sequence[Location]) -> Inputs:
    """Read all folders; one that is given twice, or is part of a demo that is given too, is read once.

    Args:
        folders: Of analyses, training runs, demos and caches, in any order. A folder may be several of these. What
            lies on object storage is a cache.

    Raises: UsageError for a folder that is none of these; any error of reading what it holds.
    """
    analyses: dict[Path, Path] = {}
    runs: dict[Path, _RunFolder] = {}
    caches: dict[Location, Location] = {}
    for folder in folders:
        if isinstance(folder, RemoteUrl):
            caches.setdefault(folder, folder)
            continue
        resolved, found = _real(folder), _runs_of(folder)
        for run in found:
            runs.setdefault(_real(run.path), run)
        is_analysis, is_cache = (folder / RESULT).is_file(), CachePaths(folder).manifest.is_file()
        if is_analysis:
            analyses.setdefault(resolved, folder)
        if is_cache:
            caches.setdefault(resolved, folder)
        if not (found or is_analysis or is_cache):
            raise UsageError(f"{folder}: {_nothing_in(folder)}")
    return Inputs(
        _read_analyses(list(analyses.values())), _read_runs(list(runs.values())), _read_caches(list(caches.values()))
    )


def _real(folder: Path) -> Path:
    # Path.resolve raises for a link to itself.
    return Path(os.path.realpath(folder))


def _nothing_in(folder: Path) -> str:
    if not folder.is_dir():
        return "no such folder"
    return (
        f"nothing to report here. Give the folder of an analysis ({RESULT}), of a training run or a demo ({SUMMARY}, "
        f"{_METRICS}), or of a finished cache (manifest.json)"
    )


def _runs_of(folder: Path) -> list[_RunFolder]:
    """The run in a folder, or the runs of the demo in it."""
    summary = _dictionary(read_summary(folder), folder / SUMMARY) if (folder / SUMMARY).is_file() else {}
    if isinstance(members := summary.get("runs"), dict):
        return [
            _RunFolder(name, _member(folder, name, each), summary.get("teacher_top1")) for name, each in members.items()
        ]
    if (folder / _METRICS).is_file() or "method" in summary:
        return [_RunFolder(_real(folder).name, folder, None)]
    return []


def _member(demo: Path, name: str, summary: Any) -> Path:
    """The folder of a demo's run: inside the demo, which may have been moved since."""
    recorded = Path(str(_dictionary(summary, demo / SUMMARY).get("folder", "")))
    for path in (demo / recorded.name, recorded):
        if recorded.name and ((path / SUMMARY).is_file() or (path / _METRICS).is_file()):
            return path
    raise UsageError(f"{demo}: its {SUMMARY} names the run {name!r} in {recorded}, which is not there; restore it")


def _read_analyses(folders: Sequence[Path]) -> list[AnalysisInput]:
    read = [read_analysis(folder) for folder in folders]
    sources = [Path(analysis.source.path).name or analysis.source.path for analysis, _ in read]
    labels = _distinct(sources, folders)
    return [
        AnalysisInput(label, number, folder, analysis, curves)
        for number, (label, folder, (analysis, curves)) in enumerate(zip(labels, folders, read, strict=True))
    ]


def _read_runs(folders: Sequence[_RunFolder]) -> list[RunInput]:
    labels = _distinct([each.name for each in folders], [each.path for each in folders])
    return [_read_run(label, each) for label, each in zip(labels, folders, strict=True)]


def _read_run(label: str, found: _RunFolder) -> RunInput:
    folder = found.path
    config = folder / _CONFIG
    record = _dictionary(load_json(config.read_bytes(), where=str(config)), config) if config.is_file() else {}
    summary = read_summary(folder)
    steps, evals = (read_metrics(folder, kind) for kind in ("step", "eval"))
    known = None if summary is None else _dictionary(summary, folder / SUMMARY)
    return RunInput(label, folder, known, record, steps, evals, found.teacher_top1)


def _read_caches(folders: Sequence[Location]) -> list[CacheInput]:
    caches = [open_cache(folder) for folder in folders]
    names = [folder.name if isinstance(folder, RemoteUrl) else _real(folder).name for folder in folders]
    labels = _distinct(names, folders)
    return [CacheInput(label, cache, _bad_images(cache)) for label, cache in zip(labels, caches, strict=True)]


def _bad_images(cache: Cache) -> list[BadSample]:
    shards = [shard for shard in cache.manifest.shards if shard.num_bad]
    return [bad for shard in shards for bad in read_ledger(cache.hold(LEDGER, shard).path)]


def _distinct(names: Sequence[str], folders: Sequence[Location]) -> list[str]:
    """The names, with the folder instead wherever a name is not unique."""
    return [name if names.count(name) == 1 else str(folder) for name, folder in zip(names, folders, strict=True)]


def _dictionary(value: Any, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CorruptCacheError(f"{path}: a JSON object is wanted, found {type(value).__name__}; restore the file")
    return value
