"""Which arguments a timm model may be built with, wherever they come from: an allow-list for each architecture.

Arguments travel in files that strangers send (a run folder, a manifest, a model's config.json), and timm's factory
takes some that name files and addresses: ``checkpoint_path``, ``pretrained_cfg``, ``cache_dir``. What passes here can
only choose sizes and variants of layers.
"""

import dataclasses
import difflib
import inspect
import math
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import timm
import timm.models
from torch import nn

from kdcache.errors import ModelError

# The factories' own parameters load, download or place a model; none of them is a property of the architecture.
_FACTORY = frozenset(
    {
        *inspect.signature(timm.create_model).parameters,
        *inspect.signature(timm.models.build_model_with_cfg).parameters,
        *("self", "args", "device", "dtype"),
    }
)
# Batch norm settings that timm's functions for mobile networks take out of their keyword arguments.
_BATCH_NORM = ("bn_eps", "bn_momentum", "bn_tf")
_PACKAGES = ("timm", "kdcache")
# Neither a path, an address, an import nor a call can be written with these.
_WORD = re.compile(r"[A-Za-z0-9_+-]{0,64}")
_MOST_VALUES = 256
_DEEPEST = 4


def check_arguments(name: str, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that are not plain settings of an architecture.

    Args:
        name: timm model name that timm knows, with or without a tag.
        arguments: What it is to be built with.

    Raises: ModelError naming the argument and what is allowed.
    """
    known = _settings(name)
    for argument, value in arguments.items():
        if argument in _FACTORY:
            raise ModelError(
                f"{name}: the argument {argument} is not one of the architecture and could load files, so that it is "
                "refused; allowed are settings of its layers, such as img_size, depth or drop_path_rate"
            )
        if argument not in known:
            close = difflib.get_close_matches(argument, known, n=2)
            hint = f"did you mean {' or '.join(close)}?" if close else "see the model in timm's documentation"
            raise ModelError(f"{name} does not take these arguments: {argument}; {hint}")
        if not _is_plain(value):
            raise ModelError(
                f"{name}: {argument}={str(value)[:80]!r} is refused; allowed are numbers, true, false, none, words of "
                "letters, digits, _, + and -, and lists and tables of these"
            )


def _settings(name: str) -> set[str]:
    """Names of what the classes and configurations in the source file of an architecture take."""
    entrypoint = timm.models.model_entrypoint(name.split(".")[0])
    parameters = {*inspect.signature(entrypoint).parameters, *_BATCH_NORM}
    for kind in _classes(sys.modules[entrypoint.__module__]):
        parameters.update(inspect.signature(kind.__init__).parameters)
    return parameters - _FACTORY - {"kwargs"}


def _classes(module: Any) -> Iterator[type]:
    """Modules and configurations in a source file, with the classes they are made from."""
    for value in vars(module).values():
        if inspect.isclass(value) and (issubclass(value, nn.Module) or dataclasses.is_dataclass(value)):
            yield from (each for each in value.__mro__ if each.__module__.split(".")[0] in _PACKAGES)


def _is_plain(value: Any, depth: int = 0) -> bool:
    if value is None or isinstance(value, bool | int):
        return True
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str):
        return _WORD.fullmatch(value) is not None
    if depth == _DEEPEST or not isinstance(value, list | tuple | dict) or len(value) > _MOST_VALUES:
        return False
    if isinstance(value, dict):
        return all(_is_plain(key) and _is_plain(each, depth + 1) for key, each in value.items())
    return all(_is_plain(each, depth + 1) for each in value)
