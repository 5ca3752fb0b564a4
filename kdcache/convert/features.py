"""Features that another program left: folders of ``.npy`` files, and WebDataset tars with a file of arrays a sample."""

import hashlib
import io
import math
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import final

import numpy as np
import safetensors.numpy

from kdcache.cache.record import Array
from kdcache.errors import BadRecordError, UsageError
from kdcache.storage import open_regular, read_regular, reading_errors

_ENDINGS = (".npy", ".safetensors")
_SHOWN = 5


class Features(ABC):
    """Arrays by key.

    Attributes:
        names: Of the file or member by key.
    """

    names: Mapping[str, str]

    @abstractmethod
    def read(self, key: str) -> bytes:
        """The bytes of one file."""

    @abstractmethod
    def size_bytes(self, key: str) -> int:
        """Size of one file."""

    def load(self, key: str, tensor: str | None) -> Array:
        """One array, float32, of whatever shape it has.

        Args:
            key: One of `names`.
            tensor: Which of several in a safetensors file; None for the only one.

        Raises: BadRecordError for a file that is damaged or holds no numbers, UsageError for a tensor it does not hold.
        """
        name, data = self.names[key], self.read(key)
        try:
            if name.endswith(".npy"):
                return _as_float(_load_npy(data), name)
            held = safetensors.numpy.load(data)
        except BadRecordError:
            raise
        except Exception as error:  # NumPy parses a header as Python, and fails in as many ways
            raise BadRecordError(f"{name}: cannot be read as an array ({error}); nothing was converted of it") from None
        if tensor is None and len(held) == 1:
            return _as_float(next(iter(held.values())), name)
        if tensor not in held:
            raise UsageError(f"{name}: wanted {tensor or 'one tensor'}, it holds {', '.join(sorted(held)) or 'none'}")
        return _as_float(held[tensor], name)

    def digest(self, tensor: str | None) -> str:
        """sha256 over names and sizes: what was imported, as far as can be told without reading it."""
        lines = [f"tensor {tensor}", *(f"{key} {self.size_bytes(key)}" for key in sorted(self.names))]
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()

    def key_of(self, image: str) -> str | None:
        """The key of an image's features: its own, or that without the extension of a file."""
        path = PurePosixPath(image)
        return next((key for key in (image, path.with_suffix("").as_posix()) if key in self.names), None)


def _load_npy(data: bytes) -> Array:
    """As numpy.load, which would also unpickle, open zip files, and allocate whatever a header says."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    shape, _, dtype = read(file)
    size_bytes, held_bytes = math.prod(shape) * dtype.itemsize, len(data) - file.tell()
    if size_bytes > held_bytes:
        raise ValueError(f"its header says {size_bytes} bytes of shape {shape}, and {held_bytes} follow")
    return np.load(io.BytesIO(data), allow_pickle=False)


def _as_float(values: Array, name: str) -> Array:
    if values.dtype.kind not in "fiu":
        raise BadRecordError(f"{name}: holds {values.dtype}, wanted numbers")
    return values.astype(np.float32)


@final
class NpyFolder(Features):
    """``<key>.npy`` below a folder; keys may have folders."""

    def __init__(self, root: Path) -> None:
        with reading_errors(root):
            found = sorted(path for path in root.rglob("*.npy") if path.is_file())
        self._paths = {path.relative_to(root).with_suffix("").as_posix(): path for path in found}
        self.names = {key: str(path) for key, path in self._paths.items()}

    def read(self, key: str) -> bytes:
        """See Features."""
        return read_regular(self._paths[key])

    def size_bytes(self, key: str) -> int:
        """See Features."""
        return self._paths[key].stat().st_size


@final
class FeatureTars(Features):
    """``<key>.safetensors`` or ``<key>.npy`` in tars, of any program; only ordinary members are read."""

    def __init__(self, paths: list[Path]) -> None:
        self._places: dict[str, tuple[Path, int, int]] = {}
        self.names = names = dict[str, str]()
        for path in paths:
            try:
                with reading_errors(path), tarfile.open(path, "r:") as tar:
                    members = [each for each in tar if each.isreg() and each.name.endswith(_ENDINGS)]
            except tarfile.TarError as error:
                raise UsageError(f"{path}: is no uncompressed tar ({error})") from None
            for member in members:
                key = member.name.removeprefix("./").rsplit(".", 1)[0]
                if key in names:
                    raise UsageError(f"{path}: {member.name} is there twice, also as {names[key]}")
                self._places[key] = (path, member.offset_data, member.size)
                names[key] = f"{path}/{member.name}"

    def read(self, key: str) -> bytes:
        """See Features."""
        path, offset, size = self._places[key]
        with open_regular(path) as file, reading_errors(path):
            file.seek(offset)
            return file.read(size)

    def size_bytes(self, key: str) -> int:
        """See Features."""
        return self._places[key][2]


def open_features(source: Path) -> Features:
    """The features of a folder of ``.npy`` files, of a folder of tars, or of one tar.

    Raises: UsageError for anything else.
    """
    if not source.exists():
        raise UsageError(f"{source}: nothing is there; wanted a folder of .npy files, or tars of features")
    tars = [source] if source.is_file() else sorted(source.glob("*.tar"))
    features: Features = FeatureTars(tars) if tars else NpyFolder(source)
    if not features.names:
        raise UsageError(
            f"{source}: holds no features; wanted .npy files named like the images, or tars with a .safetensors or "
            ".npy member for each"
        )
    return features


def match_features(features: Features, images: list[str]) -> list[str]:
    """The keys of the images' features, in the order of the images.

    Raises: UsageError naming images without features.
    """
    found = [features.key_of(image) for image in images]
    missing = [image for image, key in zip(images, found, strict=True) if key is None]
    if missing:
        shown = ", ".join(repr(each) for each in missing[:_SHOWN])
        raise UsageError(
            f"{len(missing)} of {len(images)} images have no features: {shown}{', …' if missing[_SHOWN:] else ''}; "
            f"those that are there are named like {next(iter(features.names))!r}"
        )
    return [key for key in found if key is not None]
