"""Training runs side by side."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from kdcache.reports.blocks import Block, Plot, Plots, Row, Section, Table
from kdcache.reports.explained import Explainer
from kdcache.reports.inputs import CacheInput, RunInput
from kdcache.reports.run_terms import logged_terms
from kdcache.reports.sections.explained import explained_blocks
from kdcache.reports.sections.seeds import seeds_blocks
from kdcache.reports.svg import draw_plot, line_label, log_y, look, reference_line
from kdcache.reports.words import NOTHING, number_text, share_text, size_text

Points = list[tuple[float, float]]


def runs_section(runs: Sequence[RunInput], caches: Sequence[CacheInput] = ()) -> Section | None:
    """Tables of all runs, alone and over seeds, and their curves; None without a run.

    Args:
        runs: The runs.
        caches: Those whose statistics are at hand.
    """
    if not runs:
        return None
    explainer = Explainer(caches)
    labels = logged_terms([step for run in runs for step in run.steps])
    plots = [
        _accuracy(runs),
        _over_steps(
            runs,
            "loss",
            "training loss",
            "Loss that is minimised, as logged. Methods add different terms: compare a run with itself, not with "
            "others.",
        ),
        *(
            _over_steps(
                runs, label, f"term {label}", f"The term {label} before its weight; runs without it have no line."
            )
            for label in labels
        ),
    ]
    drawn = [plot for plot in plots if plot is not None]
    blocks: list[Block] = [_table(runs)]
    blocks += seeds_blocks(runs, explainer, lambda run: figure(run, "top1"))
    blocks += explained_blocks(runs, explainer)
    return Section("runs", "Training runs", [*blocks, *([Plots(drawn)] if drawn else [])])


def figure(run: RunInput, name: str) -> float | None:
    """One number of a run: of its summary, or as last logged; None where neither has it."""
    entries = [each for each in (run.summary, *reversed(run.evals), *reversed(run.steps)) if each is not None]
    return next((value for each in entries if (value := finite(each.get(name))) is not None), None)


def finite(value: Any) -> float | None:
    """The value if it is a number that can be drawn."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None


def draw_runs(
    lines: Mapping[str, Points], *, finish: Callable[[Axes], None], name: str, label: str, caption: str
) -> Plot | None:
    """One line a run; runs without points keep their look for the other figures. None if no run has any.

    Args:
        lines: (x, y) of each run.
        finish: Names the axes.
        name, label, caption: As for `draw_plot`.
    """
    if not any(lines.values()):
        return None

    def draw(axes: Axes) -> None:
        for number, (run, points) in enumerate(lines.items()):
            if points:
                marker = "." if len(points) < 30 else ""
                axes.plot(*zip(*points, strict=True), marker=marker, label=line_label(run), **look(number))
        finish(axes)

    return draw_plot(draw, name=name, label=label, caption=caption)


def _table(runs: Sequence[RunInput]) -> Table:
    headings = (
        "run",
        "student",
        "method",
        "parameters",
        "top-1",
        "best",
        "images/s",
        "waiting",
        "bytes/view",
        "memory",
    )
    return Table(
        headings,
        [_row(run) for run in runs],
        "Top-1 in percent after the last evaluation, with its standard error from the number of held-out images, and "
        "the best of all evaluations. Another seed moves it as well: repeat runs before trusting differences of this "
        "size. Waiting: fraction of the time in which the student waited for data. Bytes/view: the teacher's targets "
        "read for each view. Memory: peak, without the teacher.",
    )


def _row(run: RunInput) -> Row:
    config = run.record.get("config")
    known = run.summary or (config if isinstance(config, dict) else {})
    method = known.get("method", NOTHING)
    name = run.label if run.summary is not None else f"{run.label} (unfinished, step {figure(run, 'step') or 0:.0f})"
    tops = [value for entry in run.evals if (value := finite(entry.get("top1"))) is not None]
    best = figure(run, "best_top1")
    return Row(
        (
            name,
            str(known.get("student", NOTHING)),
            str(method.get("name", NOTHING) if isinstance(method, dict) else method),
            number_text(figure(run, "num_parameters")),
            _top1(run),
            _percent(best if best is not None else max(tops, default=None)),
            number_text(figure(run, "images_per_s")),
            share_text(figure(run, "stall_share")),
            _size(figure(run, "target_bytes_per_view")),
            _size(figure(run, "peak_memory_bytes")),
        )
    )


def _top1(run: RunInput) -> str:
    top1, count = figure(run, "top1"), figure(run, "num_images")
    if top1 is None or not count:
        return _percent(top1)
    return f"{top1:.2f} ± {math.sqrt(max(top1 * (100 - top1), 0) / count):.2f}"


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}"


def _size(value: float | None) -> str:
    return NOTHING if value is None else size_text(value)


def _accuracy(runs: Sequence[RunInput]) -> Plot | None:
    lines: dict[str, Points] = {
        run.label: [
            (epoch + 1, top1)
            for entry in run.evals
            if (epoch := finite(entry.get("epoch"))) is not None and (top1 := finite(entry.get("top1"))) is not None
        ]
        for run in runs
    }
    teachers = sorted({top1 for run in runs if (top1 := finite(run.teacher_top1)) is not None})

    def finish(axes: Axes) -> None:
        ends = [epoch for points in lines.values() for epoch, _ in points]
        for top1 in teachers:
            reference_line(axes, [min(ends), max(ends)], [top1, top1], f"teacher: {top1:.2f} %")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="epoch", ylabel="top-1 (%)")

    return draw_runs(
        lines,
        finish=finish,
        name="runs-accuracy",
        label="Top-1 over epochs",
        caption="Top-1 on the held-out images after each evaluation; higher is better.",
    )


def points_over_steps(run: RunInput, name: str) -> Points:
    """(step, value) of one logged number."""
    return [
        (step, value)
        for entry in run.steps
        if (step := finite(entry.get("step"))) is not None and (value := finite(entry.get(name))) is not None
    ]


def _anchor(name: str) -> str:
    """Letters, digits and dashes only, and still another for another name."""
    return "".join(letter if letter.isalnum() or letter == "-" else f"-{ord(letter)}-" for letter in name)


def _over_steps(runs: Sequence[RunInput], name: str, title: str, caption: str) -> Plot | None:
    lines: dict[str, Points] = {
        run.label: [(step, value) for step, value in points_over_steps(run, name) if value > 0] for run in runs
    }

    def finish(axes: Axes) -> None:
        axes.set(xlabel="step", ylabel=title)
        log_y(axes)

    return draw_runs(
        lines, finish=finish, name=f"runs-{_anchor(name)}", label=f"{title} over steps, logarithmic", caption=caption
    )
