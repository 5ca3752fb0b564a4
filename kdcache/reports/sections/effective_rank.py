"""Accuracy over rank, the region of 85 to 95 % of the teacher's, and the knee."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from scipy.interpolate import PchipInterpolator

from kdcache.analysis.result import EffectiveRank
from kdcache.reports.blocks import Block, Plot, Plots, Row, Section, Table, Text
from kdcache.reports.inputs import AnalysisInput
from kdcache.reports.svg import COLOURS, INK, draw_plot, look, reference_line
from kdcache.reports.words import number_text


def effective_rank_section(analyses: Sequence[AnalysisInput]) -> Section | None:
    """Of each analysis that has one; None if none has."""
    found = [(each, each.analysis.effective_rank) for each in analyses if each.analysis.effective_rank is not None]
    if not found:
        return None
    rows = [
        Row(
            (
                each.label,
                number_text(rank.teacher_accuracy),
                *(number_text(edge) for edge in rank.region),
                number_text(rank.knee),
                number_text(rank.knee_log),
            )
        )
        for each, rank in found
    ]
    table = Table(
        ("", "teacher's accuracy", "rank of 85 %", "rank of 95 %", "knee", "knee, log rank"),
        rows,
        "Ranks at which the curve reaches 85 and 95 % of the teacher's accuracy, and the point farthest from the "
        "straight line between its ends. Stretching an axis does not move the knee; taking the rank's logarithm does.",
    )
    blocks: list[Block] = [Plots([_plot(each, rank) for each, rank in found]), table]
    blocks += [Text(f"{each.label}: {note}.", "note") for each, rank in found for note in rank.notes]
    return Section("effective-rank", "Effective rank", blocks)


def _plot(each: AnalysisInput, rank: EffectiveRank) -> Plot:
    ranks, first = np.unique(rank.ranks, return_index=True)
    accuracies = np.asarray(rank.accuracies)[first]

    def draw(axes: Axes) -> None:
        if len(ranks) > 1:
            between = np.linspace(ranks[0], ranks[-1], 200)
            curve = PchipInterpolator(ranks, accuracies)
            axes.plot(between, curve(between), label="monotone curve (PCHIP)", **look(0))
            for knee, name, marker in ((rank.knee, "knee", "D"), (rank.knee_log, "knee, log rank", "s")):
                if knee is not None:
                    axes.plot([knee], [curve(knee)], marker, color=COLOURS[1], fillstyle="none", label=name)
        axes.plot(ranks, accuracies, "o", color=INK, markersize=4, label="measured")
        low, high = rank.region
        if low is not None and high is not None:
            axes.axvspan(low, high, color=COLOURS[2], alpha=0.18, linewidth=0, label="85 to 95 % of the teacher")
        reference_line(axes, [ranks[0], ranks[-1]], [rank.teacher_accuracy] * 2, "teacher")
        axes.set(xlabel="rank", ylabel="accuracy")

    return draw_plot(
        draw,
        name=f"effective-rank-{each.number}",
        label="Accuracy over rank",
        caption=f"{each.label}: accuracy of students of each rank. The shaded ranks give 85 to 95 % of the teacher's "
        "accuracy; beyond the knee more rank brings little.",
    )
