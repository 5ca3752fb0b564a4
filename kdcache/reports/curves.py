"""Training curves of several rows of runs in one picture, each row repeated with several seeds."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from kdcache.durable import write_file
from kdcache.reports.repeats import mean_and_sd

# Distinguishable without colour vision (Okabe and Ito), and by line style in print.
_COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2")
_STYLES = ("-", "--", "-.", ":")

Entries = Sequence[Mapping[str, Any]]


def draw_curves(
    path: Path,
    evals: Mapping[str, Sequence[Entries]],
    steps: Mapping[str, Sequence[Entries]],
    reference: tuple[str, float],
    *,
    distance: str,
) -> None:
    """Write a PNG: accuracy over epochs, and the distance to the teacher over steps for rows with one.

    Lines are means over a row's runs; where it has several, bands reach from the lowest to the highest run.

    Args:
        path: The file.
        evals: For each row the ``eval`` metrics of its runs: epoch, top1.
        steps: For each row the ``step`` metrics of its runs: step, and the distance.
        reference: Name and top-1 of the teacher, drawn as a line.
        distance: Name of the metric that is the mean squared error of features.
    """
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    accuracy, feature = figure.subplots(1, 2)
    looks = {row: (_COLOURS[at % len(_COLOURS)], _STYLES[at % len(_STYLES)]) for at, row in enumerate(evals)}
    for row, runs in evals.items():
        label = _accuracy_label(row, [run[-1]["top1"] for run in runs if run])
        finished = [[{"epoch": entry["epoch"] + 1, "top1": entry["top1"]} for entry in run] for run in runs]
        _draw_row(accuracy, finished, ("epoch", "top1"), looks[row], label)
    accuracy.axhline(reference[1], color="#888888", linewidth=1, label=f"{reference[0]}: {reference[1]:.1f} %")
    accuracy.xaxis.set_major_locator(MaxNLocator(integer=True))
    bands = " (bands: all seeds)" if any(len(runs) > 1 for runs in evals.values()) else ""
    accuracy.set(xlabel="epoch", ylabel="top-1 on held-out images (%)", title=f"Accuracy: higher is better{bands}")
    accuracy.legend(loc="lower right", fontsize="small")
    for row, runs in steps.items():
        _draw_row(feature, runs, ("step", distance), looks[row], row)
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


def _accuracy_label(row: str, last: list[float]) -> str:
    if not last:
        return row
    mean, sd = mean_and_sd(last)
    return f"{row}: {mean:.1f}{'' if sd is None else f' ± {sd:.1f}'} %"


def _draw_row(axes: Axes, runs: Sequence[Entries], names: tuple[str, str], look: tuple[str, str], label: str) -> None:
    """Draw the mean of a row's runs, and the range of several; nothing where no run has the metric."""
    at, value = names
    points = [{entry[at]: entry[value] for entry in run if value in entry} for run in runs]
    # A run that was cut short would shift the mean where the others go on.
    shared = sorted(set.intersection(*map(set, points))) if points else []
    if not shared:
        return
    values = np.array([[run[place] for place in shared] for run in points])
    colour, style = look
    axes.plot(shared, values.mean(axis=0), style, color=colour, label=label)
    if len(values) > 1:
        axes.fill_between(shared, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, linewidth=0)
