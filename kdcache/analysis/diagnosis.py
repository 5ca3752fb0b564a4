"""What naive feature distillation would ask of a student, and which remedy the numbers support.

Source of the published increments: METHODS 1.7 (arXiv 2511.15572): single seeds, ImageNet-1K top-1 of DeiT-Tiny.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kdcache.analysis.result import Curves, Diagnosis, Layer, Ranks
from kdcache.models.build import create_timm_model
from kdcache.models.taps import num_blocks

_NAMES = {"none": "no change", "lift": "Lift", "widelast": "WideLast"}
_PUBLISHED = (
    "Published with CaiT-S24 and DeiT-Tiny over logits alone in the same recipe: Lift +0.54 points of top-1 at +4.7 % "
    "parameters, WideLast +1.24 at +26.6 % (27.9 % as released). Of that the feature term itself is +0.30 and +0.35; "
    "without a change of the student it is -0.16."
)
_RANDOM = "The teacher's weights are random, so what follows says nothing of a trained one."
_CAVEATS = [
    "The thresholds (99 % for no change, 95 % for Lift rather than WideLast) are kdcache's, no paper's.",
    "The published increments are of single seeds, one teacher and one student; below some 0.2 points is noise. Train "
    "the same student with the method logit first and judge by the difference.",
    "Lift also changes the head (mean of the patch tokens, a LayerNorm); how much of its gain is that is not known.",
    "Ranks of single images are capped by the number of tokens, and uncentred energy can sit in one common direction: "
    "compare the centred columns.",
    "The spectral energy pattern is no evidence here: low-rank and one-hot tokens look like white noise in it.",
]


@dataclass(frozen=True)
class StudentShape:
    """What counts of a student: its timm name, the channels of its last block, and its blocks."""

    name: str
    width: int
    depth: int


def student_shape(name: str, kwargs: Mapping[str, Any] | None = None) -> StudentShape:
    """Look a timm model up without allocating its weights.

    Args:
        name: timm model.
        kwargs: Its arguments.

    Raises: ModelError for names timm does not know, or arguments the model does not take.
    """
    with torch.device("meta"):
        model = create_timm_model(name, kwargs=kwargs)
    channels: int = model.feature_info[-1]["num_chs"]  # pyright: ignore
    return StudentShape(name, channels, num_blocks(model))


def diagnose(layer: Layer, ranks: Ranks, curves: Curves, student: StudentShape, *, weights: str) -> Diagnosis:
    """Judge the last layer that was analysed.

    Args:
        layer: The layer whose tokens the student is to learn.
        ranks: Its ranks.
        curves: Its curves.
        student: The student.
        weights: Where the teacher's came from; ``random`` is said in the verdict.
    """
    width, channels = student.width, layer.num_channels
    needed = {level: _needed(ranks, level) for level in ranks.all_tokens}
    own = ranks.per_image["99"].p99
    curve = curves["ranks/all_tokens"]
    reach = float(curve[min(width, len(curve)) - 1])
    whose = "99th percentile over images" if ranks.shared else "all tokens together"
    if width >= channels or needed["99"] <= width:
        remedy = "none"
        why = (
            f"one fixed projector from its {width} channels suffices: 99 % of the energy lies in {needed['99']:.0f} "
            f"shared dimensions ({whose}), so a plain feature term (the method feature) asks nothing impossible"
        )
    else:
        remedy = "lift" if needed["95"] <= width else "widelast"
        can = "a map that depends on the image could follow" if own <= width else "even single images exceed its width"
        why = (
            f"one fixed projector from its {width} channels keeps at most {100 * reach:.1f} % of the energy of all "
            f"tokens: 99 % needs {needed['99']:.0f} shared dimensions ({whose}), 95 % needs {needed['95']:.0f}. A "
            f"single image needs {own:.0f} for 99 % (99th percentile), so {can}. Supported: {_NAMES[remedy]}"
        )
    verdict = f"{layer.name} speaks in {channels} channels; for {student.name}, {why}."
    rows = [
        ("teacher's channels", f"{channels}"),
        ("tokens of an image", f"{layer.num_tokens}"),
        ("student's channels", f"{width}"),
        ("dimensions of one image, 80/90/95/99 %", _dims([each.p99 for each in ranks.per_image.values()])),
        (f"shared dimensions, 80/90/95/99 % ({whose})", _dims(list(needed.values()))),
        (f"energy that {min(width, channels)} shared dimensions keep", f"{100 * reach:.1f} %"),
        ("remedy supported", _NAMES[remedy]),
    ]
    paragraph = verdict if remedy == "none" else f"{verdict} {_PUBLISHED}"
    if weights == "random":
        paragraph = f"{_RANDOM} {paragraph}"
    return Diagnosis(
        student=student.name, layer=layer.name, remedy=remedy, paragraph=paragraph, rows=rows, caveats=list(_CAVEATS)
    )


def _needed(ranks: Ranks, level: str) -> float:
    return float(ranks.all_tokens[level]) if ranks.shared is None else ranks.shared[level].p99


def _dims(values: list[float]) -> str:
    return " / ".join(f"{np.rint(value):.0f}" for value in values)
