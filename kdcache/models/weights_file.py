"""Reading a checkpoint of any training script as plain data: nothing in it is ever run or imported.

torch's own weights-only unpickler does the reading. Classes that it does not know (settings, paths, loggers) are
replaced by an inert stand-in by their name alone, so that they cannot keep the weights beside them from being read.
"""

import json
import re
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from kdcache.errors import ModelError

_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_CONTROLS = re.compile(r"[\x00-\x20\x7f]+")
_LONGEST = 160
# In order of preference, as in folders that timm and others save for the hub.
_IN_FOLDER = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin", "model.bin", "model.pth")
# First bytes of what is often found under the name of a checkpoint.
_OTHER_FILES = (
    (b"version https://git-lfs", "a Git LFS pointer, not the weights; fetch them with git lfs pull"),
    (b"<", "a web page or XML, not weights; download the file itself"),
    (b"\x89HDF", "an HDF5 file; convert its weights to .safetensors"),
    (b"\x1f\x8b", "compressed by gzip; unpack it first"),
    (b"\x93NUMPY", "a NumPy array; convert the weights to .safetensors"),
    (b"{", "JSON, not weights; name the file that holds the tensors"),
)


class _StandIn:
    """What a class of an unknown name is read as: an empty dictionary that takes items and attributes."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return OrderedDict()


class _NumpyStandIn:
    """The same for NumPy's types, whose state is a tuple."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read_weights_file(path: Path) -> Any:
    """The value in a checkpoint: tensors, numbers and words in dictionaries and lists.

    Args:
        path: A ``.safetensors`` file or one of ``torch.save``, whatever its name, or a folder that holds one as timm
            saves them for the hub.

    Raises: ModelError saying what the file is, where it is no checkpoint or cannot be read without running code.
    """
    path = _file_of(path)
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise ModelError(f"{path}: an empty file; download or copy it again")
    # safetensors: eight bytes of length, then a JSON object.
    if head[8:9] == b"{":
        return _read_safetensors(path)
    for start, what in _OTHER_FILES:
        if head.lstrip().startswith(start):
            raise ModelError(f"{path}: {what}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _read_torch(path)


def _file_of(path: Path) -> Path:
    path = path.expanduser()
    if path.is_dir():
        held = [path / name for name in _IN_FOLDER if (path / name).is_file()]
        if not held and any(path.glob("*.index.json")):
            raise ModelError(f"{path}: its weights are cut into several files; save them as one (max_shard_size)")
        if not held:
            raise ModelError(f"{path}: a folder without {' or '.join(_IN_FOLDER[:3])}; name the weights file in it")
        return held[0]
    if not path.is_file():
        raise ModelError(f"{path}: no such weights file; wanted a local file, hub or random")
    return path


def _read_safetensors(path: Path) -> Any:
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError, json.JSONDecodeError) as error:
        raise ModelError(f"{path}: not a readable safetensors file ({plain_reason(error)}); copy it again") from None


def _read_torch(path: Path) -> Any:
    try:
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # the older format of torch.save, TorchScript, or damage: reading it says which
        unknown = ["argparse.Namespace"]
    stand_ins: list[Any] = [(_NumpyStandIn if name.startswith("numpy") else _StandIn, name) for name in unknown]
    try:
        # Warnings of the reader are about what is not read.
        with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):
            warnings.simplefilter("ignore")
            value = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files fail in many ways, and unpickling is refused by one more
        raise ModelError(
            f"{path}: not a readable checkpoint ({plain_reason(error)}); only tensors are loaded, nothing is run: save "
            "the model's state_dict(), or convert it to .safetensors"
        ) from None
    if isinstance(value, OrderedDict) and not value and unknown:
        raise ModelError(
            f"{path}: a whole object of Python ({', '.join(sorted(unknown)[:3])}), which only its code could "
            "read; save its state_dict() instead"
        )
    return value


def plain_reason(error: BaseException) -> str:
    """The first sentence of a library's message, without escape codes and advice."""
    text = _CONTROLS.sub(" ", _ESCAPES.sub("", str(error))).strip()
    if "TorchScript" in text:
        return "it is a TorchScript archive"
    if match := re.search(r"Unsupported global: GLOBAL (\S+)|Trying to load unsupported GLOBAL (\S+)", text):
        return f"it holds {match[1] or match[2]}, which is code"
    if "weights_only" in text or "Weights only" in text:
        return "it holds more than tensors and plain values"
    return text[:_LONGEST] or type(error).__name__
