"""Training curves of several runs in one picture."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from kdcache.durable import write_file
from kdcache.reports.run_terms import logged_terms

# Distinguishable without colour vision (Okabe and Ito), and by line style in print.
_COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2")
_STYLES = ("-", "--", "-.", ":")
_COLUMNS = 2

Metrics = Mapping[str, Sequence[Mapping[str, Any]]]
Looks = Mapping[str, tuple[str, str]]


def draw_curves(path: Path, runs: Metrics, steps: Metrics, reference: tuple[str, float]) -> None:
    """Write a PNG: accuracy over epochs, and every term over steps for the runs that have it.

    Args:
        path: The file.
        runs: For each run its ``eval`` metrics: epoch, top1.
        steps: For each run its ``step`` metrics: step, and one number for each term under its label.
        reference: Name and top-1 of the teacher, drawn as a line.
    """
    labels = logged_terms([entry for entries in steps.values() for entry in entries])
    rows = -(-(1 + len(labels)) // _COLUMNS)
    figure = Figure(figsize=(11, 4.4 * rows), layout="constrained")
    panels = [figure.add_subplot(rows, _COLUMNS, at + 1) for at in range(1 + len(labels))]
    looks = {name: (_COLOURS[at % len(_COLOURS)], _STYLES[at % len(_STYLES)]) for at, name in enumerate(runs)}
    _draw_accuracy(panels[0], runs, looks, reference)
    for axes, label in zip(panels[1:], labels, strict=True):
        _draw_term(axes, label, steps, looks)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_file(path, buffer.getvalue())


def _draw_accuracy(axes: Axes, runs: Metrics, looks: Looks, reference: tuple[str, float]) -> None:
    for name, entries in runs.items():
        colour, style = looks[name]
        epochs, values = [entry["epoch"] + 1 for entry in entries], [entry["top1"] for entry in entries]
        axes.plot(epochs, values, style, color=colour, label=f"{name}: {values[-1]:.1f} %" if values else name)
    axes.axhline(reference[1], color="#888888", linewidth=1, label=f"{reference[0]}: {reference[1]:.1f} %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch", ylabel="top-1 on held-out images (%)", title="Accuracy: higher is better")
    axes.legend(loc="lower right", fontsize="small")
    axes.grid(alpha=0.3)


def _draw_term(axes: Axes, label: str, steps: Metrics, looks: Looks) -> None:
    for name, entries in steps.items():
        # What is zero has no place on a logarithmic axis.
        points = [(entry["step"], entry[label]) for entry in entries if entry.get(label, 0) > 0]
        if points:
            colour, style = looks[name]
            axes.plot(*zip(*points, strict=True), style, color=colour, label=name)
    axes.set(xlabel="step", ylabel=label, title=f"Term {label}, before its weight: lower is closer")
    if axes.lines:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(ScalarFormatter())
        axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
