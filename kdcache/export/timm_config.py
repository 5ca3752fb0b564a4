"""A student in the format of timm and the Hugging Face hub: ``config.json`` beside ``model.safetensors``."""

from collections.abc import Sequence
from typing import Any

import timm
from torch import nn

from kdcache.models import StudentSpec
from kdcache.models.build import size_arguments
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
    architecture = spec.name.split(".")[0]
    known = timm.get_pretrained_cfg(architecture)
    assert known is not None, "the student was built by this name"
    arguments = {**size_arguments(spec.name, spec.image_size), **spec.kwargs}
    config: dict[str, Any] = {
        "architecture": architecture,
        "num_classes": spec.num_classes,
        "num_features": model.num_features,
        # timm drops an argument that is None when it is passed, not when it is read from a file.
        "model_args": {name: value for name, value in arguments.items() if value is not None},
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
            "first_conv": known.first_conv,
            "classifier": known.classifier,
        },
    }
    if len(class_names) == spec.num_classes:
        config["label_names"] = list(class_names)
    return config
