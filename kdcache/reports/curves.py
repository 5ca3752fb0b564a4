"""Training curves of several runs in one picture."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from kdcache.durable import write_file

# Distinguishable without colour vision (Okabe and Ito), and by line style in print.
_COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2")
_STYLES = ("-", "--", "-.", ":")


def draw_curves(
    path: Path,
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    steps: Mapping[str, Sequence[Mapping[str, Any]]],
    reference: tuple[str, float],
) -> None:
    """Write a PNG: accuracy over epochs, and the feature term over steps for the runs that have one.

    Args:
        path: The file.
        runs: For each run its ``eval`` metrics: epoch, top1.
        steps: For each run its ``step`` metrics: step, feature.
        reference: Name and top-1 of the teacher, drawn as a line.
    """
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    accuracy, feature = figure.subplots(1, 2)
    looks = {name: (_COLOURS[at % len(_COLOURS)], _STYLES[at % len(_STYLES)]) for at, name in enumerate(runs)}
    for name, entries in runs.items():
        colour, style = looks[name]
        epochs, values = [entry["epoch"] + 1 for entry in entries], [entry["top1"] for entry in entries]
        accuracy.plot(epochs, values, style, color=colour, label=f"{name}: {values[-1]:.1f} %" if values else name)
    accuracy.axhline(reference[1], color="#888888", linewidth=1, label=f"{reference[0]}: {reference[1]:.1f} %")
    accuracy.xaxis.set_major_locator(MaxNLocator(integer=True))
    accuracy.set(xlabel="epoch", ylabel="top-1 on held-out images (%)", title="Accuracy: higher is better")
    accuracy.legend(loc="lower right", fontsize="small")
    for name, entries in steps.items():
        points = [(entry["step"], entry["feature"]) for entry in entries if "feature" in entry]
        if points:
            colour, style = looks[name]
            feature.plot(*zip(*points, strict=True), style, color=colour, label=name)
    feature.set(xlabel="step", ylabel="mean squared error", title="Distance to the teacher's features: lower is closer")
    if feature.lines:
        feature.set_yscale("log")
        feature.yaxis.set_major_formatter(ScalarFormatter())
        feature.yaxis.set_minor_formatter(ScalarFormatter())
        feature.legend(fontsize="small")
    for axes in (accuracy, feature):
        axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_file(path, buffer.getvalue())
