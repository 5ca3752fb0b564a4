"""Whether one fixed map from a student's width can reach the tokens of a layer.

Decided on centred ranks in a basis that all images share: what a linear map with a bias must reproduce is the variance
around the mean token. Uncentred energy stands beside it, as published, but decides nothing: one common direction can
hold nearly all of it.

Source of the published increments: arXiv 2511.15572; single seeds, ImageNet-1K top-1 of DeiT-Tiny.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np
import torch

from kdcache.analysis.result import Curves, Diagnosis, Layer, Ranks, SourceFacts, Spread
from kdcache.cache.record import Array
from kdcache.models.build import create_timm_model
from kdcache.models.taps import num_blocks, parse_tap

# kdcache's own thresholds, no paper's.
_LEVEL = "99"
_ENOUGH = int(_LEVEL) / 100
_FEWEST_IMAGES = 100
_DOMINANT = 0.5
_PUBLISHED = (
    "Published with CaiT-S24 and DeiT-Tiny, each against the same student without the feature term: "
    "+0.30 points of top-1 for Lift, +0.35 for WideLast, -0.16 for the unchanged student."
)
_CAVEATS = [
    "The level of 99 % of the variance is kdcache's choice, no paper's; so is 99th percentile over "
    "images against the student's width.",
    "A floor says what a map cannot reach, not what a student learns: it holds for the mean squared "
    "error to raw tokens, and says nothing about losses that compare no channels (gram, "
    "token-similarity) or pooled ones (spectral, adapter=pool).",
    "Lift's lifted tokens are a fixed linear map of the student's tokens, scaled token by token and "
    "shifted: their rank is the student's width. Ranks are no argument for it; its gain is measured "
    "against the same Lift without its feature term. As published it gained about as much as "
    "WideLast, so ranks do not explain the gains by themselves.",
    "The published increments are of single seeds, one teacher and one student; below some 0.2 points is noise.",
    "Ranks of single images are capped by the number of tokens.",
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


def diagnose(layer: Layer, ranks: Ranks, curves: Curves, student: StudentShape, *, source: SourceFacts) -> Diagnosis:
    """Decide for the last layer that was analysed.

    Args:
        layer: The layer whose tokens the student is to learn.
        ranks: Its ranks.
        curves: Its curves.
        student: The student.
        source: Images, view recipe and weights, all of which the verdict names.
    """
    found = _Reach(ranks, curves, student.width, layer.num_channels)
    cautions = _cautions(found, ranks, layer, source)
    sentences = [
        *(f"Caution: {caution}" for caution in cautions),
        f"{layer_words(layer, source)} has {layer.num_channels} channels, the student {student.name} {student.width}.",
        *_verdict(found, ranks),
        f"Measured on {_images_words(source)}.",
    ]
    return Diagnosis(
        student=student.name,
        student_width=student.width,
        layer=layer.name,
        fixed_map=found.fixed_map,
        reach=found.with_bias,
        paragraph=" ".join(sentences),
        rows=_rows(found, ranks, layer, source),
        cautions=cautions,
        caveats=list(_CAVEATS),
    )


def layer_words(layer: Layer, source: SourceFacts) -> str:
    """``The teacher's last block (blocks.23/patch)``: where a layer is, in plain words."""
    block = parse_tap(layer.name).block
    if block is None:
        return f"The student's change ({layer.name})"
    is_last = block in (-1, source.num_blocks - 1)
    return f"The teacher's {'last block' if is_last else f'block {block}'} ({layer.name})"


@final
class _Reach:
    """How far a fixed map from the student's width gets.

    Attributes:
        with_bias, without_bias: Fractions of the variance around the mean token, over all tokens.
        standardized: As with_bias, with every channel at unit variance.
        uncentred: Fraction of the energy, the mean token's included.
        first: Fraction of the variance along the strongest direction.
        needed, needed_uncentred: Shared dimensions for each level, of what `whose` says.
        fixed_map: See Diagnosis.
    """

    fixed_map: Literal["suffices", "suffices-with-bias", "falls-short"]

    def __init__(self, ranks: Ranks, curves: Curves, width: int, channels: int) -> None:
        self.width, self.channels = width, channels
        centred = curves["ranks/all_tokens_centred"]
        self.first = float(centred[0])
        self.with_bias = _at(centred, width)
        self.uncentred = _at(curves["ranks/all_tokens"], width)
        self.standardized = _at(curves["ranks/all_tokens_standardized"], width)
        # What is left out is the same sum of squares; only what it is a fraction of differs.
        variance = 1 - ranks.mean_energy
        left_out = 1 - self.uncentred
        self.without_bias = max(0.0, 1 - left_out / variance) if variance > left_out else 0.0
        self.whose = "99th percentile over images" if ranks.shared_centred else "all tokens together"
        self.needed = _needed(ranks.shared_centred, ranks.all_tokens_centred)
        self.needed_uncentred = _needed(ranks.shared, ranks.all_tokens)
        if width < channels and self.needed[_LEVEL] > width:
            self.fixed_map = "falls-short"
        elif width < channels and self.without_bias < _ENOUGH:
            self.fixed_map = "suffices-with-bias"
        else:
            self.fixed_map = "suffices"


def _verdict(found: _Reach, ranks: Ranks) -> list[str]:
    needed, whose = found.needed[_LEVEL], found.whose
    if found.width >= found.channels:
        return ["A fixed linear map can give it all of them: no width is missing."]
    uncentred = (
        f"Uncentred, {_dimensions(found.needed_uncentred[_LEVEL])} 99 % of the energy, and the mean "
        f"token alone holds {_percent(ranks.mean_energy)} of it; that energy decides nothing here."
    )
    if found.fixed_map == "falls-short":
        return [
            f"One fixed linear map from {found.width} channels falls short: with a bias it reaches at most "
            f"{_percent(found.with_bias)} of the variance of all tokens around their mean, and holding 99 % takes "
            f"{needed:.0f} shared components ({whose}).",
            uncentred,
            "A linear adapter, and Lift too, is such a map and cannot get below this floor; a map that depends on the "
            "input, as the widened last block of WideLast, is not bound by it.",
            _PUBLISHED,
        ]
    bias = (
        f"It needs the bias: without one it reaches {_percent(found.without_bias)}. Keep the adapter's bias, or "
        "subtract the mean token from the targets (transform=mean)."
        if found.fixed_map == "suffices-with-bias"
        else "It does not need the bias."
    )
    return [
        f"One fixed linear map with a bias suffices: {needed:.0f} shared components explain 99 % of the variance "
        f"around the mean token ({whose}), so a plain feature term (the method feature) asks nothing impossible.",
        bias,
        uncentred,
    ]


def _cautions(found: _Reach, ranks: Ranks, layer: Layer, source: SourceFacts) -> list[str]:
    cautions: list[str] = []
    if source.weights == "random":
        cautions.append("the teacher's weights are random, so this says nothing about a trained one.")
    if (images := _num_images(source)) < _FEWEST_IMAGES:
        cautions.append(
            f"{images} {'image is' if images == 1 else 'images are'} too few for a verdict; take at least "
            f"{_FEWEST_IMAGES}, better 1,000 of all classes."
        )
    if ranks.num_tokens <= layer.num_channels:
        cautions.append(
            f"{ranks.num_tokens} tokens cannot span {layer.num_channels} channels, so the ranks say how few they are."
        )
    if found.first > _DOMINANT and found.width < found.channels:
        cautions.append(
            f"one direction holds {_percent(found.first)} of the variance, as a massive activation does, and decides "
            f"alone; with every channel at unit variance (transform=standardize) {found.width} components explain "
            f"{_percent(found.standardized)}."
        )
    return cautions


def _rows(found: _Reach, ranks: Ranks, layer: Layer, source: SourceFacts) -> list[tuple[str, str]]:
    kept, levels = min(found.width, found.channels), "80/90/95/99 %"
    own = ranks.per_image_centred
    rows = [
        ("teacher's channels", f"{found.channels}"),
        ("student's channels", f"{found.width}"),
        ("images, view recipe", _images_words(source)),
        ("tokens of an image; in the shared basis", f"{layer.num_tokens}; {ranks.num_tokens}"),
        (f"shared components, centred, {levels} ({found.whose})", _dims(list(found.needed.values()))),
        (f"variance that {kept} shared components explain", _percent(found.with_bias)),
        ("… reached without a bias", _percent(found.without_bias)),
        ("… with every channel at unit variance", _percent(found.standardized)),
        (f"shared components, uncentred, {levels}", _dims(list(found.needed_uncentred.values()))),
        (f"energy that {kept} shared components explain, uncentred", _percent(found.uncentred)),
        ("energy in the mean token", _percent(ranks.mean_energy)),
        (f"components of one image, uncentred, {levels}", _dims([each.p99 for each in ranks.per_image.values()])),
    ]
    if own is not None:
        rows.append((f"components of one image, centred, {levels}", _dims([each.p99 for each in own.values()])))
    return [*rows, ("one fixed linear map", found.fixed_map.replace("-", " "))]


def _num_images(source: SourceFacts) -> int:
    return source.num_read or source.num_images


def _images_words(source: SourceFacts) -> str:
    views = "one view" if source.num_views == 1 else f"{source.num_views} views"
    if source.num_read and source.num_views > 1:
        views = "the first view"
    size = source.view.get("size")
    recipe = source.view_recipe + (f" at {size} px" if size else "")
    images = f"{_num_images(source):,} of {source.num_images:,} images of {source.data}"
    return f"{images}, {views} of each, view recipe {recipe}"


def _at(curve: Array, width: int) -> float:
    return float(curve[min(width, len(curve)) - 1])


def _needed(shared: Mapping[str, Spread] | None, all_tokens: Mapping[str, int]) -> dict[str, float]:
    if shared is None:
        return {level: float(each) for level, each in all_tokens.items()}
    return {level: each.p99 for level, each in shared.items()}


def _dimensions(count: float) -> str:
    return "1 shared component explains" if count == 1 else f"{count:.0f} shared components explain"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def _dims(values: list[float]) -> str:
    return " / ".join(f"{np.rint(value):.0f}" for value in values)
