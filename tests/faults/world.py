"""A finished cache of two teachers with pixels, and a run trained from it: copied for every fault, and read."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from kdcache.cache import open_cache
from kdcache.errors import KdcacheError
from kdcache.methods.lift import lift
from kdcache.stream.config import StreamConfig
from kdcache.stream.loader import CacheLoader
from kdcache.teacher.extract import extract
from kdcache.terms.logits import Logits
from kdcache.train.folder import load_student
from kdcache.train.loop import train
from tests.conftest import GROUP, file_hashes, tiny_add, tiny_extract
from tests.train.support import tiny_run


class World:
    """What the campaign damages copies of.

    Args:
        folder: For the originals and the copies.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cache, self.run = folder / "cache", folder / "run"
        extract_all(self.cache)
        train_to(self.cache, self.run, epochs=1)
        self.hashes = visible_files(self.cache)
        self.records = records_of(self.cache)
        self.student = student_of(self.run)
        # A finished run takes more epochs from its last checkpoint, or from the one before where that is damaged: what
        # comes of it differs, because the schedule is longer from there on.
        self.longer = {self._longer(without=0), self._longer(without=1)}

    def _longer(self, *, without: int) -> str:
        run = copy_of(self.run, self.folder / "longer")
        checkpoints = run / "checkpoints"
        steps = sorted({path.name.split(".")[0] for path in checkpoints.iterdir()})
        for step in steps[len(steps) - without :]:
            for path in checkpoints.glob(f"{step}*"):
                path.unlink()
        train_to(self.cache, run, epochs=2)
        return student_of(run)


def extract_all(root: Path) -> None:
    """Both passes: a base with one teacher, then another teacher and the pixels; resumes what is there."""
    extract(tiny_extract(root))
    extract(tiny_add(root, pixels="raw"))


def train_to(cache: Path, run: Path, *, epochs: int) -> None:
    """A short run of Lift with a checkpoint in the middle of an epoch, or its resumption."""
    method = lift(teacher=(f"{GROUP}:blocks.1/patch",)).with_terms([Logits(teacher=f"{GROUP}:")])
    train(cache, run, tiny_run("checkpoint.every_steps=2", method=method, epochs=epochs))


def copy_of(root: Path, copy: Path) -> Path:
    """A copy in the place of an earlier one."""
    shutil.rmtree(copy, ignore_errors=True)
    return Path(shutil.copytree(root, copy))


def visible_files(root: Path) -> dict[str, str]:
    """Hash of every file of a cache but temporary ones: those of a living process stay until another one runs."""
    return {name: digest for name, digest in file_hashes(root).items() if not name.endswith(".tmp")}


def records_of(root: Path) -> dict[str, str]:
    """Hash of what a stream delivers of each column and of the images, every file checked before use.

    Raises: KdcacheError for what it refuses.
    """
    cache = open_cache(root)
    columns = [column for column in cache.columns if column.kind != "pixels"]
    config = StreamConfig(batch_size=4, tail="pad", num_threads=1, check="full", views_per_sample=2)
    digests = {name: hashlib.sha256() for name in ("images", *(column.name for column in columns))}
    for batch in CacheLoader(cache, columns, config):
        digests["images"].update(np.ascontiguousarray(batch.images.numpy()).tobytes())
        for column in columns:
            digests[column.name].update(batch.targets[column.name].decode().numpy().tobytes())
    return {name: digest.hexdigest() for name, digest in digests.items()}


def student_of(run: Path) -> str:
    """Hash of a finished run's student and of what it is evaluated with. Raises: KdcacheError."""
    student, *facts = load_student(run)
    digest = hashlib.sha256(repr(facts).encode())
    for name, tensor in sorted(student.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def outcome_of(work: Any, *arguments: Any) -> Any:
    """What work gives, or the project's own error; any other exception goes on to the caller."""
    try:
        return work(*arguments)
    except KdcacheError as error:
        return error
