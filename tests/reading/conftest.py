"""A file of random bytes, to be read in every mode; and reading with the C extension and without it."""

from pathlib import Path

import numpy as np
import pytest

from kdcache.reading import labels, pieces

SIZE = 1 << 20


@pytest.fixture
def path(tmp_path: Path, random: np.random.Generator) -> Path:
    """`SIZE` bytes."""
    path = tmp_path / "records.bin"
    path.write_bytes(random.bytes(SIZE))
    return path


@pytest.fixture(params=["extension", "python"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the C extension, and without it."""
    if request.param == "python":
        for module in (labels, pieces):
            monkeypatch.setattr(module, "_gather", None)
    elif pieces._gather is None:
        pytest.skip("the C extension was not built")
