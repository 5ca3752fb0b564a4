"""A file of random bytes, to be read in every mode."""

from pathlib import Path

import numpy as np
import pytest

SIZE = 1 << 20


@pytest.fixture
def path(tmp_path: Path, random: np.random.Generator) -> Path:
    """`SIZE` bytes."""
    path = tmp_path / "records.bin"
    path.write_bytes(random.bytes(SIZE))
    return path
