"""A Ray actor with faults, which files in a folder switch on: what is to happen at a step, once or always.

The class and the reader are imported by Ray's processes, and by the child that tries images one by one.
"""

import os
import signal
import time
from pathlib import Path

from kdcache.teacher import begin
from kdcache.teacher.model import Teacher
from kdcache.teacher.ray.actor import ShardActor
from kdcache.teacher.reading import ImageReader, ReadImage
from kdcache.teacher.writing import ShardSink

# The folder, for all processes of a cluster.
FOLDER = "KDCACHE_TEST_FAULTS"


def happen(step: str) -> None:
    """Die or hang at a step, where its file says so; ``once`` removes the file first."""
    file = Path(os.environ[FOLDER]) / step
    try:
        how = file.read_text()
        if how.startswith("once"):
            file.unlink()
    except FileNotFoundError:
        return  # no fault, or another process has had it
    if how.endswith("hang"):
        time.sleep(600)
    os.kill(os.getpid(), signal.SIGKILL)


class FaultyReader(ImageReader):
    def read(self, number: int) -> ReadImage:
        happen(f"read-{number}")
        return super().read(number)


class FaultyActor(ShardActor):
    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        begin.ImageReader = FaultyReader
        begin.Teacher = _faulty_teacher
        ShardSink.add = _faulty_add


_plain_add = ShardSink.add


def _faulty_add(self: ShardSink, batch: object, outputs: object) -> None:
    """Dies with half a shard written."""
    _plain_add(self, batch, outputs)
    happen(f"write-{batch.task.shard.name}")


def _faulty_teacher(*arguments: object, **keywords: object) -> Teacher:
    happen("teacher")
    return Teacher(*arguments, **keywords)
