"""Analyses and runs that no teacher and no student made: every shape that a report must show."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from kdcache.analysis.folder import write_analysis
from kdcache.analysis.result import (
    Analysis,
    Bandwidths,
    Checkpoint,
    Curves,
    Depth,
    Diagnosis,
    Dynamics,
    EffectiveRank,
    Layer,
    LayerPairs,
    Ranks,
    Sep,
    SourceFacts,
    Spread,
)
from kdcache.reports.inputs import Inputs, read_inputs
from tests.reports.synthetic_runs import run_summary, write_run

ODD_NAME = "<b>&\"'$x_1$ <script>alert(1)</script>"
TOKENS, CHANNELS, GRID, IMAGES = 16, 24, [4, 4], 3
RANK_LEVELS, SEP_LEVELS = ("80", "90", "95", "99"), ("50", "60", "70", "80", "90")


def spread(value: float) -> Spread:
    return Spread(mean=value, std=1.0, p25=value - 1, median=value, p75=value + 1, p99=value + 2)


def ranks(*, with_records: bool) -> Ranks:
    per_image = {level: spread(3.0 + at) for at, level in enumerate(RANK_LEVELS)}
    shared = {level: spread(7.0 + at) for at, level in enumerate(RANK_LEVELS)} if with_records else None
    whole = {level: 8 + at for at, level in enumerate(RANK_LEVELS)}
    return Ranks(
        max_rank=min(TOKENS, CHANNELS),
        per_image=per_image,
        per_image_centred=per_image if with_records else None,
        numerical=spread(12.0) if with_records else None,
        shared=shared,
        shared_centred=shared,
        all_tokens=whole,
        all_tokens_centred=whole,
        all_tokens_standardized=whole,
        num_tokens=IMAGES * TOKENS,
        mean_energy=0.25,
    )


def bandwidths(num_bins: int, *, permuted: bool) -> Bandwidths:
    bins = {level: round(num_bins * int(level) / 100) for level in SEP_LEVELS}
    ranges = {level: {"mean": each + 0.4, "min": each - 1.0, "max": each + 1.0} for level, each in bins.items()}
    return Bandwidths(
        num_bins=num_bins,
        bins=bins,
        white_noise=bins,
        permuted=ranges if permuted else None,
        permuted_l1=0.0123 if permuted else None,
    )


def sep(*, with_records: bool) -> Sep:
    by_energy = bandwidths(CHANNELS, permuted=False) if with_records else None
    return Sep(
        full=bandwidths(CHANNELS, permuted=True),
        folded=bandwidths(CHANNELS // 2 + 1, permuted=True),
        sorted_spectrum=by_energy,
        sorted_channels=by_energy,
        num_zero_tokens=5,
    )


def layer(block: int, *, name: str = "", with_records: bool = True, codec: str = "fp16", empty: bool = False) -> Layer:
    return Layer(
        name=name or f"blocks.{block}/patch",
        block=block,
        column=f"blocks-{block}-patch-{codec}" if codec else "",
        codec=codec,
        num_tokens=TOKENS,
        num_channels=CHANNELS,
        grid=GRID,
        fidelity={
            "relative_error": 2e-4,
            "cosine": 0.999999,
            "energy_kept": 0.9999,
            "centred_error": 4e-4,
            "median_channel_error": 4e-4,
            "worst_channel_error": 6e-3,
            "channels_above_tenth": 0.0,
        }
        if codec
        else {},
        ranks=None if empty else ranks(with_records=with_records),
        sep=None if empty else sep(with_records=with_records),
        dynamics=Dynamics(entropy_bits=3.0 - 0.1 * block, magnitude=1.0 + block, intensity=0.1 * (block - 1) ** 2 + 0.1)
        if with_records and not empty
        else None,
    )


def layer_curves(number: int, *, with_records: bool) -> Curves:
    """What curves.h5 holds of one layer."""
    random = np.random.default_rng(number)
    energy = np.sort(random.random(CHANNELS))[::-1].cumsum()
    energy /= energy[-1]
    found = {f"ranks/all_tokens{name}": energy for name in ("", "_centred", "_standardized")}
    found["ranks/per_image"] = energy[:TOKENS] / energy[TOKENS - 1]
    for order, bins in (("full", CHANNELS), ("folded", CHANNELS // 2 + 1)):
        line = np.linspace(0, 1, bins + 1)[1:]
        found |= {f"sep/{order}/mean": line, f"sep/{order}/white_noise": line}
        found |= {f"sep/{order}/permuted_low": line * 0.98, f"sep/{order}/permuted_high": np.minimum(1, line * 1.02)}
        if with_records:
            found[f"sep/{order}/std"] = np.full(bins, 0.03)
    if with_records:
        found |= {"ranks/shared": energy**1.5, "ranks/shared_centred": energy**1.6}
        found |= {"ranks/per_image_centred": found["ranks/per_image"] ** 1.1}
        for order in ("sorted_spectrum", "sorted_channels"):
            found |= {f"sep/{order}/mean": energy, f"sep/{order}/white_noise": energy**1.2}
            found[f"sep/{order}/std"] = np.full(CHANNELS, 0.02)
        found["dynamics/channel_spectrum"] = random.random(CHANNELS // 2 + 1)
        found["spatial/frequency"] = np.array([0.0, 0.25, 0.5])
        found["spatial/log_amplitude"] = np.array([0.0, -0.5, -1.0])
    return {f"layers/{number}/{name}": values for name, values in found.items()}


def source(path: str, **changes: Any) -> SourceFacts:
    facts = {
        "kind": "cache",
        "path": path,
        "digest": "ab" * 32,
        "teacher": "vit_unknown",
        "weights": "hub",
        "data": "digits:train",
        "num_images": IMAGES,
        "num_views": 2,
        "num_read": IMAGES,
        "num_blocks": 4,
        "view_recipe": "rrc-flip",
        "view": {"size": 16, "interpolation": "bicubic", "scale": [0.6, 1.0], "ratio": [0.75, 4 / 3]},
    }
    return SourceFacts(**{**facts, **changes})


def analysis(layers: list[Layer], path: str = "caches/inet", **changes: Any) -> Analysis:
    values: dict[str, Any] = {
        "versions": {"kdcache": "0.1.0", "torch": "2.6.0"},
        "date": "2026-11-22",
        "device": "cpu",
        "source": source(path),
        "settings": {"permutations": 100, "student": None, "nested": {"seed": 7}},
        "layers": layers,
        "depth": {},
        "layer_pairs": None,
        "effective_rank": None,
        "diagnosis": None,
        "checkpoints": [],
        "made_from": {"ranks": "stored statistics", "sep": "records"},
        "left_out": ["head-logits-fp16: not patch tokens"],
        "seconds": {"reading": 1.5, "ranks": 0.25},
    }
    return Analysis(**{**values, **changes})


def write_full(folder: Path, *, num_layers: int = 4, path: str = "caches/inet", **changes: Any) -> Path:
    """Several layers, checkpoints, a diagnosis, everything."""
    layers = [layer(number) for number in range(num_layers)]
    depth = {
        name: Depth(values=[3.0, 1.0, 2.0, 2.5], has_u_shape=name == "entropy", minimum_at=1)
        for name in ("entropy", "magnitude", "intensity")
    }
    numbers = [1.0 + number for number in range(num_layers)]
    values: dict[str, Any] = {
        "depth": depth,
        "layer_pairs": LayerPairs(teacher=[0, 3], student=[0, 1], reason="intensity above 0.55"),
        "effective_rank": EffectiveRank(
            ranks=[4.0, 8.0, 16.0, 32.0],
            accuracies=[40.0, 60.0, 68.0, 70.0],
            teacher_accuracy=73.0,
            region=[9.5, 22.0],
            knee=10.0,
            knee_log=12.0,
            notes=["accuracy falls"],
        ),
        "diagnosis": Diagnosis(
            student="narrow_student",
            student_width=9,
            layer=layers[-1].name,
            fixed_map="falls-short",
            reach=0.7,
            paragraph="The student has 9 channels; 24 shared components explain 99 %.",
            rows=[("teacher's channels", "24")],
            cautions=[],
            caveats=["One seed."],
        ),
        "checkpoints": [
            Checkpoint(weights=f"epoch-{at}", entropy_bits=numbers, magnitude=numbers, intensity=numbers)
            for at in (1, 2)
        ],
    }
    curves = {name: each for at in range(num_layers) for name, each in layer_curves(at, with_records=True).items()}
    random = np.random.default_rng(1)
    curves["records/pixels"] = random.integers(0, 256, (IMAGES, 16, 16, 3), dtype=np.uint8)
    curves["records/colours"] = random.random((IMAGES, *GRID, 3))
    curves["records/keys"] = np.array([b"digit-0001", ODD_NAME.encode(), b"digit-0003"])
    write_analysis(folder, analysis(layers, path, **{**values, **changes}), curves)
    return folder


def write_stored_only(folder: Path, path: str = "caches/quick") -> Path:
    """One layer from stored statistics, one of which nothing is known; no records."""
    layers = [layer(0, with_records=False), layer(1, with_records=False, empty=True)]
    write_analysis(folder, analysis(layers, path), layer_curves(0, with_records=False))
    return folder


def write_odd(folder: Path) -> Path:
    """One layer, one image, names that are HTML."""
    layers = [layer(0, name=f"{ODD_NAME}/patch", codec="")]
    curves = layer_curves(0, with_records=True)
    curves["records/colours"] = np.random.default_rng(2).random((1, *GRID, 3))
    curves["records/keys"] = np.array([ODD_NAME.encode()])
    facts = source(f"m/{ODD_NAME}", kind="model", digest="", teacher=ODD_NAME, num_images=1, num_views=1, num_read=1)
    write_analysis(folder, analysis(layers, source=facts, left_out=[ODD_NAME]), curves)
    return folder


def write_demo(folder: Path) -> Path:
    """A demo with two runs, moved since: the folders it names are elsewhere."""
    names = {"student alone": "none", "Lift, fp16 cache": "lift"}
    runs = {name: {**run_summary(method), "folder": f"runs/old/{method}-run"} for name, method in names.items()}
    for method in names.values():
        write_run(folder / f"{method}-run", method=method)
    (folder / "summary.json").write_text(json.dumps({"runs": runs, "seconds": 1.0, "teacher_top1": 95.0}))
    return folder


def everything(folder: Path, cache: Path) -> Inputs:
    """One of each kind of folder."""
    return read_inputs(
        [
            write_full(folder / "full"),
            write_stored_only(folder / "stored"),
            write_odd(folder / "odd"),
            write_demo(folder / "demo"),
            write_run(folder / "unfinished", finished=False),
            cache,
        ]
    )
