"""A run folder: who trains in it, and the finished student with its figures."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import safetensors
import safetensors.torch
from torch import Tensor, nn

from kdcache.cache.lock import JobLock
from kdcache.config import as_plain
from kdcache.durable import make_folder, write_changed, write_file
from kdcache.errors import CorruptCacheError, ModelError, Remedy, RunMismatchError
from kdcache.models.build import tensors_sha256
from kdcache.strict_json import dump_json, dump_sealed, load_json, load_sealed
from kdcache.students.student import Student, StudentSpec, read_spec, rebuild_student
from kdcache.train.checkpoint import read_checkpoint
from kdcache.views import EvalView

_STUDENT = "student.json"
_JOB = "job"
_HASH = "kdcache.sha256"
WEIGHTS = "student.safetensors"
AVERAGED_WEIGHTS = "student-ema.safetensors"
SUMMARY = "summary.json"
CONFIG = "config.json"


def _refuse_other_kinds(folder: Path) -> None:
    """Refuse a folder that holds a cache, or the configuration of something else, such as an exported model's."""
    path = folder / CONFIG
    problem = "holds a cache" if (folder / "samples").is_dir() else ""
    if path.is_file():
        found = load_json(path.read_bytes(), where=str(path))
        if not isinstance(found, dict) or not isinstance(found.get("config"), dict):
            problem = f"holds a {CONFIG} that is no run's"
    elif (folder / SUMMARY).is_file():
        problem = f"holds a finished run without its {CONFIG}"
    if problem:
        raise RunMismatchError(f"{folder} {problem}. Nothing was changed", remedy=Remedy.ANOTHER_FOLDER)


@contextmanager
def lock_run(folder: Path, job_id: str) -> Iterator[None]:
    """Hold a run folder for the duration of the block; it is free again when the holder dies, however it dies.

    Args:
        folder: Created if need be.
        job_id: Equal for the ranks of one job, different for any other job.

    Raises: CacheBusyError naming host and pid of the job that holds it; RunMismatchError for a folder that holds
        something else; NotWritableError.
    """
    _refuse_other_kinds(folder)
    make_folder(folder / _JOB)
    lock = JobLock(folder / _JOB, job_id, action="trains in this folder")
    try:
        yield
    finally:
        lock.close()


def save_student_facts(folder: Path, spec: StudentSpec, view: EvalView, class_names: list[str]) -> None:
    """Write what `load_student` needs beside the weights."""
    facts = {"student": as_plain(spec), "eval_view": asdict(view), "class_names": class_names}
    write_changed(folder / _STUDENT, dump_sealed(facts))


def save_weights(path: Path, model: nn.Module | Mapping[str, Tensor]) -> None:
    """Write the state of a model, or that of its `state_dict`, as safetensors, durably, with a hash in its metadata.

    One entry alone: safetensors writes several in any order, and the same weights shall be the same bytes.
    """
    state = model.state_dict() if isinstance(model, nn.Module) else model
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    write_file(path, safetensors.torch.save(tensors, {_HASH: tensors_sha256(tensors)}))


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
        facts = load_sealed(facts_path.read_bytes(), where=facts_path.name)
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


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Write the figures of a finished run."""
    write_file(folder / SUMMARY, dump_json(summary))


def read_summary(folder: Path) -> dict[str, Any] | None:
    """The figures of a finished run, None for one that is not finished."""
    path = folder / SUMMARY
    return load_json(path.read_bytes(), where=str(path)) if path.is_file() else None


def read_finished(folder: Path, epochs: int) -> dict[str, Any] | None:
    """The figures of a run that is finished after so many epochs; None for one that is to be trained further.

    Raises: RunMismatchError for a file that does not say after how many.
    """
    summary = read_summary(folder)
    if summary is None:
        return None
    finished = summary.get("epochs") if isinstance(summary, dict) else None
    if not isinstance(finished, int):
        raise RunMismatchError(
            f"{folder / SUMMARY}: damaged (no number of epochs); the run writes it again",
            remedy=Remedy.REMOVE_FILE,
        )
    return summary if finished >= epochs else None
