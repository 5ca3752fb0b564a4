"""Faults that files in a folder switch on: what is to happen at a step, once or always; and a reader that has them.

Imported by the child that tries images one by one, which needs no torch.
"""

import os
import signal
import time
from pathlib import Path

from kdcache.teacher.reading import ImageReader, ReadImage

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
