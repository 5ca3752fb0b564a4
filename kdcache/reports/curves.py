"""Training curves of several rows of runs in one picture, each row repeated with several seeds."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kdcache.durable import write_file
from kdcache.reports.repeats import mean_and_sd
from kdcache.reports.run_terms import logged_terms
from kdcache.reports.svg import log_y

# Distinguishable without colour vision (Okabe and Ito), and by line style in print.
_COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2")
_STYLES = ("-", "--", "-.", ":")
_COLUMNS = 2

Entries = Sequence[Mapping[str, Any]]


def draw_curves(
    path: Path,
    evals: Mapping[str, Sequence[Entries]],
    steps: Mapping[str, Sequence[Entries]],
    reference: tuple[str, float],
) -> None:
    """Write a PNG: accuracy over epochs, and every term over steps for the rows that have it.

    Lines are means over a row's runs; where it has several, bands reach from the lowest to the highest run.

    Args:
        path: The file.
        evals: For each row the ``eval`` metrics of its runs: epoch, top1.
        steps: For each row the ``step`` metrics of its runs: step, and one number for each term under its label.
        reference: Name and top-1 of the teacher, drawn as a line.
    """
    labels = logged_terms([entry for runs in steps.values() for run in runs for entry in run])
    height = -(-(1 + len(labels)) // _COLUMNS)
    figure = Figure(figsize=(11, 4.4 * height), layout="constrained")
    panels = [figure.add_subplot(height, _COLUMNS, at + 1) for at in range(1 + len(labels))]
    looks = {row: (_COLOURS[at % len(_COLOURS)], _STYLES[at % len(_STYLES)]) for at, row in enumerate(evals)}
    _draw_accuracy(panels[0], evals, looks, reference)
    for axes, label in zip(panels[1:], labels, strict=True):
        for row, runs in steps.items():
            # What is zero has no place on a logarithmic axis.
            shown = [[entry for entry in run if entry.get(label, 0) > 0] for run in runs]
            _draw_row(axes, shown, ("step", label), looks[row], row)
        axes.set(xlabel="step", ylabel=label, title=f"Term {label}, before its weight: lower is closer")
        if axes.lines:
            log_y(axes)
            axes.legend(fontsize="small")
    for axes in panels:
        axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_file(path, buffer.getvalue())


def _draw_accuracy(
    axes: Axes,
    evals: Mapping[str, Sequence[Entries]],
    looks: Mapping[str, tuple[str, str]],
    reference: tuple[str, float],
) -> None:
    for row, runs in evals.items():
        label = _accuracy_label(row, [run[-1]["top1"] for run in runs if run])
        finished = [[{"epoch": entry["epoch"] + 1, "top1": entry["top1"]} for entry in run] for run in runs]
        _draw_row(axes, finished, ("epoch", "top1"), looks[row], label)
    axes.axhline(reference[1], color="#888888", linewidth=1, label=f"{reference[0]}: {reference[1]:.1f} %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    bands = " (bands: all seeds)" if any(len(runs) > 1 for runs in evals.values()) else ""
    axes.set(xlabel="epoch", ylabel="top-1 on held-out images (%)", title=f"Accuracy: higher is better{bands}")
    axes.legend(loc="lower right", fontsize="small")


def _accuracy_label(row: str, last: list[float]) -> str:
    if not last:
        return row
    mean, sd = mean_and_sd(last)
    return f"{row}: {mean:.1f}{'' if sd is None else f' ± {sd:.1f}'} %"


def _draw_row(axes: Axes, runs: Sequence[Entries], names: tuple[str, str], look: tuple[str, str], label: str) -> None:
    """Draw the mean of a row's runs, and the range of several; nothing where no run has the metric."""
    at, value = names
    points = [{entry[at]: entry[value] for entry in run if value in entry} for run in runs]
    # A run that was cut short would shift the mean where the others continue.
    shared = sorted(set.intersection(*map(set, points))) if points else []
    if not shared:
        return
    values = np.array([[run[place] for place in shared] for run in points])
    colour, style = look
    axes.plot(shared, values.mean(axis=0), style, color=colour, label=label)
    if len(values) > 1:
        axes.fill_between(shared, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, linewidth=0)
