"""A student in the format of timm and the Hugging Face hub: ``config.json`` beside ``model.safetensors``."""

from collections.abc import Sequence
from typing import Any

import timm
from torch import nn

from kdcache.models.build import size_arguments
from kdcache.students.change import TokenHead, Unchanged
from kdcache.students.register import registered_arguments, registered_name
from kdcache.students.student import StudentSpec
from kdcache.views import EvalView


def timm_config(model: nn.Module, spec: StudentSpec, view: EvalView, class_names: Sequence[str]) -> dict[str, Any]:
    """What timm needs to build a student and to preprocess its images.

    What timm knows of its own weights for this architecture (address, licence, paper) is left out: these are others.

    Args:
        model: The network.
        spec: What it is built from.
        view: How it sees images.
        class_names: Of its classes; left out where they are not one for each class.

    Returns: plain data. ``local-dir:`` and ``hf-hub:`` names of timm read it from ``config.json``.
    """
    base = spec.name.split(".")[0]
    known = timm.get_pretrained_cfg(base)
    assert known is not None, "the student was built by this name"
    # timm drops an argument that is None when it is passed, not when it is read from a file.
    arguments = {**size_arguments(spec.name, spec.image_size), **spec.kwargs}
    arguments = {name: value for name, value in arguments.items() if value is not None}
    changed = not isinstance(spec.change, Unchanged)
    has_own_head = isinstance(model, TokenHead)
    config: dict[str, Any] = {
        "architecture": registered_name(spec.change) if changed else base,
        "num_classes": spec.num_classes,
        "num_features": model.num_features,
        "model_args": registered_arguments(spec.change, base, arguments) if changed else arguments,
        "pretrained_cfg": {
            "input_size": [3, view.size, view.size],
            "fixed_input_size": known.fixed_input_size,
            "interpolation": view.interpolation,
            "crop_pct": view.crop_pct,
            "crop_mode": "center",
            "mean": list(view.mean),
            "std": list(view.std),
            "num_classes": spec.num_classes,
            "pool_size": known.pool_size if known.input_size[-1] == view.size else None,
            "first_conv": _within_trunk(known.first_conv) if has_own_head else known.first_conv,
            "classifier": "head" if has_own_head else known.classifier,
        },
    }
    if len(class_names) == spec.num_classes:
        config["label_names"] = list(class_names)
    return config


def _within_trunk(name: str | Sequence[str] | None) -> str | list[str] | None:
    if name is None or isinstance(name, str):
        return name and f"trunk.{name}"
    return [f"trunk.{each}" for each in name]
