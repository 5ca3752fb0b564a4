"""All analyses of one source of tokens, in as few passes as they need."""

import datetime
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import h5py as typeless_h5py
import numpy as np
import scipy
import timm
import torch
from torch import Tensor

import kdcache
from kdcache.analysis.colours import principal_colours
from kdcache.analysis.diagnosis import StudentShape, diagnose
from kdcache.analysis.dynamics import DynamicsMeter, over_depth
from kdcache.analysis.meter import LayerMeter, Stopwatch, value_range
from kdcache.analysis.result import Analysis, Checkpoint, Curves, Depth, Dynamics, EffectiveRank, Layer, LayerPairs
from kdcache.analysis.spectrum import propose_layer_pairs
from kdcache.analysis.tokens import Stored, TokenSource
from kdcache.cache.statistics import TokenStatistics
from kdcache.errors import BadRecordError, Remedy, UsageError
from kdcache.models.taps import parse_tap

OnProgress = Callable[[int, int, str], None]
_NUM_PICTURES = 6
_FEWEST_FOR_DEPTH = 3


@dataclass(frozen=True, kw_only=True)
class AnalyzeConfig:
    """What is asked beyond the tokens themselves.

    Args:
        permutations: Random orders of the channels in the control of the spectral energy pattern.
        seed: Of those orders and of the simulated noise.
        student: Whom to diagnose for; None for nobody.
        pictures: Whether to keep a few images beside their tokens.
    """

    permutations: int = 100
    seed: int = 2026
    student: StudentShape | None = None
    pictures: bool = True

    def __post_init__(self) -> None:
        if self.permutations < 0:
            raise ValueError(f"permutations must not be negative, got {self.permutations}")
        if not -(2**63) <= self.seed < 2**63:
            raise ValueError(f"seed must be between -2**63 and 2**63 - 1, got {self.seed}")


def analyze(
    source: TokenSource,
    config: AnalyzeConfig,
    *,
    device: torch.device,
    left_out: list[str],
    effective_rank: EffectiveRank | None = None,
    checkpoints: list[Checkpoint] | None = None,
    asked: Mapping[str, Any] | None = None,
    on_progress: OnProgress = lambda done, total, note: None,
) -> tuple[Analysis, Curves]:
    """Make every analysis that the source allows.

    Args:
        source: The tokens; read once, or twice where nothing about them is stored.
        config: What is asked.
        device: Where the tokens are.
        left_out: Sentences for the record.
        effective_rank, asked: An analysis of something else, and further settings, for the record.
        checkpoints: Earlier weights of the model; the source's own are added to them.
        on_progress: Called with images done, images in all (both passes), and what is being done.

    Raises: UsageError when nothing is stored and no image is to be read, BadRecordError for tokens that are not finite.
    """
    stopwatch = Stopwatch(device)
    curves: Curves = {}
    if config.pictures:
        # First, because images that are not at hand are then found before anything is spent.
        with stopwatch("pictures"):
            curves = _pictures(source)
    meters, made_from = _measure(source, device, stopwatch, on_progress)
    results = [meter.result(permutations=config.permutations, seed=config.seed) for meter in meters]
    layers = [layer for layer, _ in results]
    for number, (_, found) in enumerate(results):
        curves |= {f"layers/{number}/{name}": values for name, values in found.items()}
    depth, pairs = _over_depth(layers, config)
    last, last_curves = results[-1]
    diagnosis = None
    if config.student is not None and last.ranks is None:
        left_out = [*left_out, f"diagnosis for {config.student.name}: {last.name} has no energy"]
    if config.student is not None and last.ranks is not None:
        diagnosis = diagnose(last, last.ranks, last_curves, config.student, source=source.facts)
    analysis = Analysis(
        versions=_versions(),
        date=datetime.date.today().isoformat(),
        device=str(device),
        source=source.facts,
        settings={**(asked or {}), **source.settings, **asdict(config)},
        layers=layers,
        depth=depth,
        layer_pairs=pairs,
        effective_rank=effective_rank,
        diagnosis=diagnosis,
        checkpoints=[*checkpoints, _checkpoint(source.facts.weights, _dynamics(layers))] if checkpoints else [],
        made_from=made_from,
        left_out=left_out,
        seconds=stopwatch.seconds,
    )
    return analysis, curves


def measure_checkpoint(source: TokenSource, weights: str) -> Checkpoint:
    """The dynamics of one set of weights: two passes, for the histogram's range is that of all its layers.

    Args:
        source: A model with these weights.
        weights: Their name.
    """
    low, high = float("inf"), float("-inf")
    for features in source.batches():
        for layer, each in zip(source.layers, features, strict=True):
            if not each.numel():
                continue
            least, most = float(each.min()), float(each.max())
            check_finite(layer.name, weights, least, most)
            low, high = min(low, least), max(high, most)
    meters = [DynamicsMeter(layer.num_channels, low, high) for layer in source.layers]
    for features in source.batches():
        for meter, each in zip(meters, features, strict=True):
            meter.update(each)
    return _checkpoint(weights, [found for meter in meters if (found := meter.result()) is not None])


def _checkpoint(weights: str, measured: list[Dynamics]) -> Checkpoint:
    return Checkpoint(
        weights=weights,
        entropy_bits=[each.entropy_bits for each in measured],
        magnitude=[each.magnitude for each in measured],
        intensity=[each.intensity for each in measured],
    )


def _dynamics(layers: list[Layer]) -> list[Dynamics]:
    return [layer.dynamics for layer in layers if layer.dynamics is not None]


def _measure(
    source: TokenSource, device: torch.device, stopwatch: Stopwatch, on_progress: OnProgress
) -> tuple[list[LayerMeter], dict[str, str]]:
    num_read = source.facts.num_read
    with stopwatch("stored statistics"):
        stored = source.stored()
    passes = 1 if stored is not None else 2
    if stored is None and not num_read:
        raise UsageError(
            f"{source.facts.path}: it was extracted with light statistics, so nothing can be said without reading "
            "records",
            remedy=Remedy.READ_RECORDS,
        )
    statistics = _gathered(source, stopwatch, on_progress) if stored is None else stored[0]
    for layer, each in zip(source.layers, statistics, strict=True):
        if each.count:
            moments = float(np.trace(each.raw_moment)), float(np.trace(each.unit_moment))
            check_finite(layer.name, source.facts.path, *moments, each.minimum.min(), each.maximum.max())
    with stopwatch("ranks in a shared basis"):
        meters = _meters(source, statistics, device, stopwatch)
    done = num_read * (passes - 1)
    for features in _timed(source.batches(), stopwatch) if num_read else ():
        for meter, each in zip(meters, features, strict=True):
            meter.update(each)
        done += len(features[0])
        on_progress(done, num_read * passes, "measuring")
    if stored is not None and not num_read:
        for meter, energies in zip(meters, stored[1], strict=True):
            meter.add_stored(energies)
    return meters, _made_from(source, stored)


def _meters(
    source: TokenSource, statistics: list[TokenStatistics], device: torch.device, stopwatch: Stopwatch
) -> list[LayerMeter]:
    limits = value_range(statistics)
    return [
        LayerMeter(facts, each, value_range=limits, device=device, stopwatch=stopwatch)
        for facts, each in zip(source.layers, statistics, strict=True)
    ]


def check_finite(layer: str, where: str, *values: float) -> None:
    """Refuse tokens that cannot be analysed.

    Raises: BadRecordError naming the layer and whose it is.
    """
    if not np.isfinite(values).all():
        raise BadRecordError(
            f"{where}: {layer} has values that are not finite, or too large to be squared in float32; there is "
            "nothing to analyse in them. Check the weights, and the precision the tokens were made in"
        )


def _gathered(source: TokenSource, stopwatch: Stopwatch, on_progress: OnProgress) -> list[TokenStatistics]:
    statistics = [TokenStatistics(layer.num_channels, with_moments=True) for layer in source.layers]
    done = 0
    for features in _timed(source.batches(), stopwatch):
        # What is not finite is refused by name afterwards.
        with stopwatch("second moments"), np.errstate(over="ignore", invalid="ignore"):
            for total, each in zip(statistics, features, strict=True):
                total.update(each.cpu().numpy())
        done += len(features[0])
        on_progress(done, 2 * source.facts.num_read, "second moments")
    return statistics


def _timed(batches: Iterator[list[Tensor]], stopwatch: Stopwatch) -> Iterator[list[Tensor]]:
    while True:
        with stopwatch("reading"):
            features = next(batches, None)
        if features is None:
            return
        yield features


def _made_from(source: TokenSource, stored: Stored | None) -> dict[str, str]:
    facts = source.facts
    tokens = "records of" if facts.kind == "cache" else "a pass over"
    records = f"{tokens} {facts.num_read} of {facts.num_images} images"
    moments = records if stored is None else f"stored second moments of all {facts.num_images * facts.num_views} views"
    made = {
        "ranks of all tokens": moments,
        "mean spectral energy, folded and full, with permutations": moments,
    }
    if stored is not None and not facts.num_read:
        count = len(stored[1][0])
        return made | {"ranks of each image": f"stored singular values of {count} of {facts.num_images} images"}
    return made | {
        "ranks of each image": records,
        "ranks of each image in a shared basis": f"{records}; the basis: {moments}",
        "spectral energy of single tokens, spread over tokens, sorted orders": records,
        "dynamics": f"{records}; the range of the entropy: {moments}",
        "spatial spectrum": records,
    }


def _over_depth(layers: list[Layer], config: AnalyzeConfig) -> tuple[dict[str, Depth], LayerPairs | None]:
    # The tokens of a student's change are another kind than its blocks' and have no place in their profile.
    layers = [layer for layer in layers if parse_tap(layer.name).block is not None]
    measured = _dynamics(layers)
    if len(measured) < len(layers) or len(layers) < _FEWEST_FOR_DEPTH:
        return {}, None
    blocks = [layer.block for layer in layers]
    intensities = [each.intensity for each in measured]
    values = {
        "entropy": [each.entropy_bits for each in measured],
        "magnitude": [each.magnitude for each in measured],
        "intensity": intensities,
    }
    depth = {name: over_depth(each, blocks) for name, each in values.items()}
    student_depth = None if config.student is None else config.student.depth
    return depth, propose_layer_pairs(intensities, blocks, student_depth=student_depth)


def _pictures(source: TokenSource) -> Curves:
    pictures = source.pictures(_NUM_PICTURES)
    curves: Curves = {}
    if pictures.features is not None:
        curves["records/keys"] = np.array([key.encode() for key in pictures.keys], dtype=bytes)
        curves["records/colours"] = np.stack([principal_colours(each) for each in pictures.features])
        if pictures.pixels is not None:
            curves["records/pixels"] = pictures.pixels
    return curves


def _versions() -> dict[str, str]:
    h5py: Any = typeless_h5py
    return {
        "kdcache": kdcache.__version__,
        "h5py": h5py.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "timm": timm.__version__,
        "torch": str(torch.__version__),
    }
