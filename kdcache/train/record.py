"""What a run folder says of the run: what was asked, by which versions, of which cache; and what may differ later."""

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

import kdcache
from kdcache.config import as_plain
from kdcache.durable import make_folder, write_file
from kdcache.errors import Remedy, RunMismatchError
from kdcache.strict_json import dump_json, load_json
from kdcache.train.checkpoint import checkpoint_paths
from kdcache.train.config import RunConfig
from kdcache.train.folder import CONFIG, read_finished

# What may change while a run is interrupted: paths, whose contents are compared by digest, and what is only seen.
_ANYHOW = {
    "": ("device", "tensorboard", "log_every", "parallel", "rank_timeout_s"),
    "data": ("source", "num_threads", "memory_budget", "access"),
    "eval": ("data",),
}


def begin_run(
    folder: Path,
    config: RunConfig,
    *,
    cache_digest: str,
    world_size: int,
    device_type: str = "cpu",
    evaluation_digest: str | None = None,
    accept_versions: bool = False,
) -> int | None:
    """Record a run before its first step, or make sure that it is the one recorded there.

    What decides no number may differ: where files are, threads, what is logged. A finished run may be given more
    epochs, and one that is not finished other versions of libraries, where that is accepted; both are recorded.

    Args:
        folder: Of the run.
        config: The run.
        cache_digest: Of the columns that it reads.
        world_size: Ranks; recorded only.
        device_type: Where it runs, ``cpu`` or ``cuda``, however `config` says it.
        evaluation_digest: Of the images it is evaluated on; None for none, and for a finished run, which needs none.
        accept_versions: Whether other versions than the run began with may continue it.

    Returns: the epochs that a finished run had before it was given more; else None.
    Raises: RunMismatchError naming each setting that differs and both values; NotWritableError.
    """
    make_folder(folder)
    wanted = {"config": as_plain(config), "cache": cache_digest, "device": device_type, "evaluation": evaluation_digest}
    path = folder / CONFIG
    if path.is_file():
        found = load_json(path.read_bytes(), where=str(path))
        done = _epochs_done(folder, found["config"], config)
        known = found["config"] if done is None else {**found["config"], "epochs": config.epochs}
        differing = differences(_deciding(known), _deciding(wanted["config"]))
        for name in ("cache", "device", "evaluation"):
            one, two = found.get(name), wanted[name]
            if one is not None and two is not None and one != two:
                differing.append(f"{name}: the run has {_short(one)}, this command {_short(two)}")
        if differing:
            raise RunMismatchError(
                f"{folder} holds another run:",
                lines=[*(f"  {each}" for each in differing), "Nothing was changed."],
                remedy=Remedy.SAME_RUN,
            )
        is_finished = read_finished(folder, config.epochs) is not None
        later = [] if is_finished else _later_versions(folder, found, accept=accept_versions)
        changes = {"later_versions": later} if later else {}
        if done is not None:
            changes |= {"config": wanted["config"], "extended": [*found.get("extended", []), done]}
        if changes:
            write_file(path, dump_json({**found, **changes}))
        return done
    record = {**wanted, "versions": versions(), "git_commit": _git_commit(), "world_size": world_size}
    write_file(path, dump_json(record))
    return None


def _epochs_done(folder: Path, found: dict[str, Any], wanted: RunConfig) -> int | None:
    """The epochs of a finished run that is to be given more; None for any other run.

    Raises: RunMismatchError where its checkpoints are gone.
    """
    epochs = found["epochs"]
    if wanted.epochs <= epochs or read_finished(folder, epochs) is None:
        return None
    if not checkpoint_paths(folder):
        raise RunMismatchError(
            f"{folder}: the run is finished after {epochs} epochs and its checkpoints are gone, so that it cannot be "
            "trained any further",
            remedy=Remedy.SAME_RUN,
        )
    return epochs


def _later_versions(folder: Path, found: dict[str, Any], *, accept: bool) -> list[dict[str, str]]:
    """All versions that continued the run after those it began with.

    Raises: RunMismatchError for others that are not accepted.
    """
    held, own = [found["versions"], *found.get("later_versions", [])], versions()
    if own in held:
        return held[1:]
    if not accept:
        raise RunMismatchError(
            f"{folder} was trained with other versions:",
            lines=[*(f"  {each}" for each in differences(held[-1], own, "versions.")), "Nothing was changed."],
            remedy=Remedy.ACCEPT_VERSIONS,
        )
    return [*held[1:], own]


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


def versions() -> dict[str, str]:
    """Versions of what decides the weights of a student."""
    return {
        "kdcache": kdcache.__version__,
        "numpy": np.__version__,
        "timm": timm.__version__,
        "torch": str(torch.__version__),
    }


def read_run(folder: Path) -> dict[str, Any] | None:
    """What `begin_run` recorded: config, cache, versions, git_commit, world_size; None where there is no such file."""
    path = folder / CONFIG
    return load_json(path.read_bytes(), where=str(path)) if path.is_file() else None


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a run as plain values.

    Raises: RunMismatchError when there is none.
    """
    record = read_run(folder)
    if record is None:
        raise RunMismatchError(f"{folder / CONFIG}: no such file; {folder} is not the folder of a run")
    return record["config"]


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
