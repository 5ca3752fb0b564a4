"""A run folder: what was asked, by which versions, of which cache; and the finished student."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import safetensors
import safetensors.torch
import timm
import torch
from torch import nn

import kdcache
from kdcache.cache.lock import JobLock
from kdcache.config import as_plain
from kdcache.durable import make_folder, write_changed, write_file
from kdcache.errors import CorruptCacheError, ModelError, Remedy, RunMismatchError
from kdcache.models.build import tensors_sha256
from kdcache.strict_json import dump_json, load_json
from kdcache.students.student import Student, StudentSpec, read_spec, rebuild_student
from kdcache.train.checkpoint import read_checkpoint
from kdcache.train.config import RunConfig
from kdcache.views import EvalView

_CONFIG = "config.json"
_STUDENT = "student.json"
_JOB = "job"
# What may change while a run is interrupted: paths, whose contents are compared by digest, and what is only seen.
_ANYHOW = {
    "": ("device", "tensorboard", "log_every", "rank_timeout_s"),
    "data": ("source", "num_threads", "memory_budget", "access"),
    "eval": ("data",),
}
_HASH = "kdcache.sha256"
WEIGHTS = "student.safetensors"
AVERAGED_WEIGHTS = "student-ema.safetensors"
SUMMARY = "summary.json"


def begin_run(
    folder: Path,
    config: RunConfig,
    *,
    cache_digest: str,
    world_size: int,
    device_type: str = "cpu",
    evaluation_digest: str | None = None,
) -> None:
    """Record a run before its first step, or make sure that it is the one recorded there.

    What decides no number may differ: where files are, threads, what is logged.

    Args:
        folder: Of the run.
        config: The run.
        cache_digest: Of the columns that it reads.
        world_size: Ranks; recorded only.
        device_type: Where it runs, ``cpu`` or ``cuda``, however `config` says it.
        evaluation_digest: Of the images it is evaluated on; None for none, and for a finished run, which needs none.

    Raises: RunMismatchError naming each setting that differs and both values; NotWritableError.
    """
    make_folder(folder)
    wanted = {"config": as_plain(config), "cache": cache_digest, "device": device_type, "evaluation": evaluation_digest}
    path = folder / _CONFIG
    if path.is_file():
        found = load_json(path.read_bytes(), where=str(path))
        differing = differences(_deciding(found["config"]), _deciding(wanted["config"]))
        for name in ("cache", "device", "evaluation"):
            one, two = found.get(name), wanted[name]
            if one is not None and two is not None and one != two:
                differing.append(f"{name}: the run has {_short(one)}, this command {_short(two)}")
        if differing:
            raise RunMismatchError(
                f"{folder} holds another run:\n  " + "\n  ".join(differing) + "\nNothing was changed.",
                remedy=Remedy.SAME_RUN,
            )
        return
    record = {**wanted, "versions": versions(), "git_commit": _git_commit(), "world_size": world_size}
    write_file(path, dump_json(record))


def _deciding(config: dict[str, Any]) -> dict[str, Any]:
    """The settings that decide the numbers of a run."""
    return {
        name: {key: each for key, each in value.items() if key not in _ANYHOW.get(name, ())}
        if isinstance(value, dict)
        else value
        for name, value in config.items()
        if name not in _ANYHOW[""]
    }


def _short(text: str) -> str:
    return f"{text[:12]}…" if len(text) > 12 else text


@contextmanager
def lock_run(folder: Path, job_id: str) -> Iterator[None]:
    """Hold a run folder for the duration of the block; it is free again when the holder dies, however it dies.

    Args:
        folder: Created if need be.
        job_id: Equal for the ranks of one job, different for any other job.

    Raises: CacheBusyError naming host and pid of the job that holds it; NotWritableError.
    """
    make_folder(folder / _JOB)
    lock = JobLock(folder / _JOB, job_id, action="trains in this folder")
    try:
        yield
    finally:
        lock.close()


def versions() -> dict[str, str]:
    """Versions of what decides the weights of a student."""
    return {
        "kdcache": kdcache.__version__,
        "numpy": np.__version__,
        "timm": timm.__version__,
        "torch": str(torch.__version__),
    }


def save_student_facts(folder: Path, spec: StudentSpec, view: EvalView, class_names: list[str]) -> None:
    """Write what `load_student` needs beside the weights."""
    facts = {"student": as_plain(spec), "eval_view": asdict(view), "class_names": class_names}
    write_changed(folder / _STUDENT, dump_json(facts))


def save_weights(path: Path, model: nn.Module) -> None:
    """Write a model's state as safetensors, durably, with a hash of the tensors in its metadata."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_file(path, safetensors.torch.save(tensors, {"format": "pt", _HASH: tensors_sha256(tensors)}))


def load_student(folder: Path, *, weights: str = WEIGHTS) -> tuple[Student, StudentSpec, EvalView, list[str]]:
    """Build a finished run's student with its weights.

    Returns: student in evaluation mode, its spec, its evaluation view, and the class names of its data (may be empty).
    Raises: RunMismatchError when the folder holds no finished run, its files do not belong together, or they name a
        model that timm does not know or arguments that a file may not choose.
    """
    facts_path, weights_path = folder / _STUDENT, folder / weights
    for path in (facts_path, weights_path):
        if not path.is_file():
            raise RunMismatchError(
                f"{path}: no such file; {folder} is not the folder of a finished run",
                remedy=Remedy.FINISH_TRAINING,
            )
    try:
        facts: Any = load_json(facts_path.read_bytes(), where=str(facts_path))
        spec = read_spec(facts["student"])
        view = msgspec.convert(facts["eval_view"], EvalView)
        class_names = msgspec.convert(facts["class_names"], list[str])
    except (KeyError, TypeError, msgspec.ValidationError, CorruptCacheError) as error:
        raise RunMismatchError(f"{facts_path}: not the facts of a student ({error}); restore it") from None
    try:
        student = rebuild_student(spec)
    except ModelError as error:
        raise RunMismatchError(f"{facts_path}: {error}", remedy=error.remedy) from None
    load_saved(student, weights_path)
    return student.eval(), spec, view, class_names


def load_saved(student: Student, path: Path) -> None:
    """Put weights that `save_weights` wrote into a student.

    Raises: RunMismatchError when the file is damaged or of another student.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            recorded = (file.metadata() or {}).get(_HASH)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dictionary
        if tensors_sha256(tensors) != recorded:
            raise RunMismatchError(
                f"{path}: damaged (the sha256 of its tensors is not the one in it)", remedy=Remedy.OTHER_WEIGHTS
            )
        student.model.load_state_dict(tensors)
    except RunMismatchError:
        raise
    except Exception as error:  # safetensors and torch report damage and misfit in their own ways
        raise RunMismatchError(f"{path}: does not fit the student beside it ({str(error)[:300]})") from None


def load_checkpoint(student: Student, path: Path) -> None:
    """Put the weights of one of a run's checkpoints into its student.

    Raises: RunMismatchError when the file is damaged or of another student.
    """
    state = read_checkpoint(path)["trainer"]["model"]
    prefix = "student."
    weights = {name.removeprefix(prefix): each for name, each in state.items() if name.startswith(prefix)}
    try:
        student.load_state_dict(weights)
    except RuntimeError as error:
        raise RunMismatchError(f"{path}: does not fit the student of this run ({str(error)[:300]})") from None


def read_run(folder: Path) -> dict[str, Any] | None:
    """What `begin_run` recorded: config, cache, versions, git_commit, world_size; None where there is no such file."""
    path = folder / _CONFIG
    return load_json(path.read_bytes(), where=str(path)) if path.is_file() else None


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a run as plain values.

    Raises: RunMismatchError when there is none.
    """
    record = read_run(folder)
    if record is None:
        raise RunMismatchError(f"{folder / _CONFIG}: no such file; {folder} is not the folder of a run")
    return record["config"]


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Write the figures of a finished run."""
    write_file(folder / SUMMARY, dump_json(summary))


def read_summary(folder: Path) -> dict[str, Any] | None:
    """The figures of a finished run, None for one that is not finished."""
    path = folder / SUMMARY
    return load_json(path.read_bytes(), where=str(path)) if path.is_file() else None


def differences(
    found: dict[str, Any],
    wanted: dict[str, Any],
    prefix: str = "",
    *,
    whose: tuple[str, str] = ("the run has", "this command"),
) -> list[str]:
    """``name: the run has X, this command Y`` for every setting that differs.

    Args:
        found, wanted: Plain values by name.
        prefix: In front of the names.
        whose: What each side is called.
    """
    differing: list[str] = []
    for name in dict.fromkeys([*found, *wanted]):
        old, new = found.get(name), wanted.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            differing += differences(old, new, f"{prefix}{name}.", whose=whose)
        elif pairs := _pairs(old, new):
            for number, (one, two) in enumerate(pairs):
                differing += differences(one, two, f"{prefix}{name}[{number}].", whose=whose)
        elif old != new:
            differing.append(f"{prefix}{name}: {whose[0]} {old!r}, {whose[1]} {new!r}")
    return differing


def _pairs(old: Any, new: Any) -> list[tuple[Any, Any]]:
    """Two lists that hold as many groups of settings each, one by one; empty for anything else."""
    if not isinstance(old, list) or not isinstance(new, list) or len(old) != len(new):
        return []
    if not all(isinstance(each, dict) for each in [*old, *new]):
        return []
    return list(zip(old, new, strict=True))


def _git_commit() -> str | None:
    """The commit of the code that runs, if it runs from a checkout."""
    try:
        result = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None
