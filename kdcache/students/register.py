"""Changed students as models of timm: ``kdcache_lift``, ``kdcache_widelast``, ...; to import this registers them.

After that ``timm.create_model("local-dir:...")`` and ``hf-hub:`` names load exported students of every change. A model
is given by the timm model that is changed, its arguments and the settings of the change.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec
from timm.models import build_model_with_cfg, register_model
from torch import nn

from kdcache.config import as_plain
from kdcache.models.build import create_timm_model
from kdcache.students import CHANGES, load_change
from kdcache.students.change import Change, Unchanged

__all__ = ["registered_arguments", "registered_name"]  # timm adds the names of the models

_RGB = 3


def registered_name(change: Change) -> str:
    """Name under which timm knows what a change makes."""
    return _timm_name(change.name)


def registered_arguments(change: Change, base: str, base_args: Mapping[str, Any]) -> dict[str, Any]:
    """Plain data from which timm builds a changed student by `registered_name`.

    Args:
        change: With its width.
        base: timm model that is changed.
        base_args: Its arguments without num_classes.
    """
    settings = {name: value for name, value in as_plain(change.without_weights()).items() if name != "name"}
    return {"base": base, "base_args": dict(base_args), "settings": settings}


def _timm_name(change: str) -> str:
    return "kdcache_" + change.replace("-", "_")


def _changed(
    change: str,
    *,
    base: str,
    base_args: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    num_classes: int = 1000,
    in_chans: int = _RGB,
    **more: Any,
) -> nn.Module:
    """The changed model with fresh weights; further arguments are the base's and replace `base_args`.

    Raises: ModelError; msgspec.ValidationError or ValueError for settings that the change does not have.
    """
    kind = msgspec.convert(dict(settings or {}), load_change(change)).without_weights()
    channels = {} if in_chans == _RGB else {"in_chans": in_chans}
    arguments = {**(base_args or {}), **more, **channels, "num_classes": num_classes}

    def build(**wider: Any) -> nn.Module:
        return create_timm_model(base, kwargs={**arguments, **wider})

    return kind.apply(build)


def _entrypoint(change: str, line: str) -> Callable[..., nn.Module]:
    def entrypoint(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return build_model_with_cfg(partial(_changed, change), entrypoint.__name__, pretrained, **kwargs)

    entrypoint.__name__ = _timm_name(change)
    # What `kdcache.models.arguments` lets through.
    entrypoint.__signature__ = inspect.signature(_changed)
    entrypoint.__doc__ = f"A timm model changed: {line}."
    return entrypoint


for _change, (_, _line) in CHANGES.items():
    if _change != Unchanged().name:
        register_model(_entrypoint(_change, _line))
