"""Words and numbers as people read them."""

import json
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kdcache
from kdcache.reports.words import counted, size_text

__all__ = [
    "MODEL_HELP",
    "WEIGHTS_HELP",
    "choice_text",
    "codec_names",
    "counted",
    "fidelity_text",
    "print_json",
    "size_text",
]

MODEL_HELP = "any timm model, hf-hub:ORG/NAME, or local-dir:FOLDER as timm saves one"
WEIGHTS_HELP = "last, best (of the epoch with the best top-1), ema (averaged) or epoch-N, a milestone (last)"

# What every codec is written with, and codecs of logits alone.
_NO_TOKEN_CODECS = ("base", "kept", "packed", "sampled", "topk")


def print_json(value: Any) -> None:
    """Print a value as indented JSON."""
    print(json.dumps(value, indent=2))


def codec_names() -> list[str]:
    """The codecs of tokens by the names of their files: to import them for a help text would load numpy."""
    folder = Path(kdcache.__file__).parent / "cache" / "codecs"
    return [each.name for each in pkgutil.iter_modules([str(folder)]) if each.name not in _NO_TOKEN_CODECS]


def choice_text(choice: Mapping[str, Any]) -> str:
    """How a column's codec was chosen: what each one loses, and what it takes."""
    trials = ", ".join(
        f"{each['codec']} {size_text(each['stride_bytes'])} "
        + ("out of range" if each["error"] is None else f"{each['error']:.2g}")
        for each in choice["trials"]
    )
    return f"auto, to lose at most {choice['max_error']:g}, by {counted(choice['num_views'], 'view')}: {trials}"


def fidelity_text(fidelity: Mapping[str, float]) -> str:
    """What a column's codec loses, to be put behind its size; empty where nobody knows."""
    if not fidelity:
        return ""
    parts = [f", relative error {fidelity['relative_error']:.2g}"]
    if "centred_error" in fidelity:
        parts.append(
            f", centred {fidelity['centred_error']:.2g}, median channel {fidelity['median_channel_error']:.2g}, "
            f"worst {fidelity['worst_channel_error']:.2g}"
        )
        if lossy := fidelity["channels_above_tenth"]:
            parts.append(f": {lossy:.0%} of the channels lose more than a tenth, take a finer codec for them")
    return "".join(parts)
