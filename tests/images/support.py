"""Tars and images to try sources with."""

import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def write_tar(path: Path, members: Mapping[str, bytes] | Iterable[tuple[str, bytes]], mode: str = "w") -> Path:
    """A tar of some members; pairs may repeat a name."""
    pairs = members.items() if isinstance(members, Mapping) else members
    with tarfile.open(path, mode) as tar:
        for name, data in pairs:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def image_bytes(number: int, kind: str = "JPEG", *, size: tuple[int, int] = (20, 16)) -> bytes:
    """A small image that differs by its number."""
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def tree(root: Path, *paths: str) -> Path:
    """A folder with some files, of which only the names count."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")
    return root
