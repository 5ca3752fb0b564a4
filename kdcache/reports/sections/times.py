"""Where the time went."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from kdcache.reports.blocks import Block, Plot, Plots, Row, Section, Table
from kdcache.reports.inputs import AnalysisInput, RunInput
from kdcache.reports.sections.runs import Points, draw_runs, points_over_steps
from kdcache.reports.svg import COLOURS, draw_plot
from kdcache.reports.words import number_text, share_text


def times_section(analyses: Sequence[AnalysisInput], runs: Sequence[RunInput]) -> Section | None:
    """Seconds of the parts of each analysis, throughput and waiting of the runs; None if nothing is known."""
    timed = [each for each in analyses if each.analysis.seconds]
    plots = [_parts(each) for each in timed]
    plots += [plot for plot in (_throughput(runs), _waiting(runs)) if plot is not None]
    blocks: list[Block] = [_table(timed)] if timed else []
    if plots:
        blocks.append(Plots(plots))
    return Section("times", "Where the time went", blocks) if blocks else None


def _table(analyses: Sequence[AnalysisInput]) -> Table:
    rows: list[Row] = []
    for each in analyses:
        seconds = _longest_first(each)
        whole = sum(seconds.values())
        rows += [
            Row((f"{each.label}: {part}", number_text(value), share_text(value / whole if whole else None)))
            for part, value in seconds.items()
        ]
        rows.append(Row((f"{each.label}: in all", number_text(whole), share_text(1.0))))
    return Table(("part of the analysis", "seconds", "share"), rows, "Wall-clock time of each part.")


def _longest_first(each: AnalysisInput) -> dict[str, float]:
    return dict(sorted(each.analysis.seconds.items(), key=lambda part: -part[1]))


def _parts(each: AnalysisInput) -> Plot:
    seconds = dict(reversed(_longest_first(each).items()))

    def draw(axes: Axes) -> None:
        axes.barh(list(seconds), list(seconds.values()), color=COLOURS[0], height=0.6)
        axes.grid(visible=False, axis="y")
        axes.set(xlabel="seconds", xlim=(0, max(*seconds.values(), 1e-9) * 1.02))

    return draw_plot(
        draw,
        name=f"times-{each.number}",
        label="Seconds of each part of the analysis",
        caption=f"{each.label}: seconds of each part on {each.analysis.device}.",
        height_in=0.9 + 0.24 * len(seconds),
    )


def _throughput(runs: Sequence[RunInput]) -> Plot | None:
    lines: dict[str, Points] = {run.label: points_over_steps(run, "images_per_s") for run in runs}

    def finish(axes: Axes) -> None:
        axes.set(xlabel="step", ylabel="images/s since the start", ylim=(0, None))

    return draw_runs(
        lines,
        finish=finish,
        name="times-throughput",
        label="Training throughput over steps",
        caption="Views trained on in a second, mean since the first step, waiting included. Runs compare only where "
        "they had the machine to themselves.",
    )


def _waiting(runs: Sequence[RunInput]) -> Plot | None:
    lines: dict[str, Points] = {
        run.label: [(step, 100 * share) for step, share in points_over_steps(run, "stall_share")] for run in runs
    }

    def finish(axes: Axes) -> None:
        axes.set(xlabel="step", ylabel="time spent waiting (%)", ylim=(0, None))

    return draw_runs(
        lines,
        finish=finish,
        name="times-waiting",
        label="Fraction of time waiting for data over steps",
        caption="Fraction of the time in which the student waited for data, mean since the first step. Near zero: the "
        "cache keeps up.",
    )
