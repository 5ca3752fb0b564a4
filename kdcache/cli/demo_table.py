"""What the demo found, as figures and as text: a row for each method, and which rows differ."""

import math
from collections.abc import Mapping
from itertools import combinations
from typing import Any

from kdcache.reports.repeats import least_difference, mean_and_sd
from kdcache.reports.tables import text_table
from kdcache.reports.words import counted, size_text

_MEANING = """\
top-1          fraction of {num_images} held-out digits classified correctly after the last epoch: {what}.
               Teacher, cache and held-out digits are the same for all. They are few: with others, all rows would
               move, by about {error:.1f} points (standard error)
images/s       views the student is trained on in a second, data waiting included; one thread, and on a machine
               with two cores or more two runs at a time
bytes/image    what is read from the cache for each view besides the image itself: the teacher's features and logits
peak memory    of the whole training process, PyTorch itself included. The teacher is in none of them"""


def summarize(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Put runs with different seeds together.

    Args:
        runs: Summaries of runs by name, each with its ``row`` as well.

    Returns: ``rows``, for each row the top-1 of its runs, their mean and standard deviation (None for one run) and
        its other figures; ``least_difference`` in points, below which two rows cannot be told apart (None for one run).
    """
    grouped: dict[str, list[Mapping[str, Any]]] = {}
    for each in runs.values():
        grouped.setdefault(each["row"], []).append(each)
    rows = {row: _figures(of) for row, of in grouped.items()}
    least = least_difference([row["top1"] for row in rows.values()])
    return {"rows": rows, "least_difference": least}


def _figures(runs: list[Mapping[str, Any]]) -> dict[str, Any]:
    top1 = [each["top1"] for each in runs]
    mean, sd = mean_and_sd(top1)
    return {
        "top1": top1,
        "top1_mean": mean,
        "top1_sd": sd,
        "num_images": runs[0]["num_images"],
        "num_parameters": runs[0]["num_parameters"],
        "images_per_s": mean_and_sd([each["images_per_s"] for each in runs])[0],
        "target_bytes_per_view": runs[0]["target_bytes_per_view"],
        "peak_memory_bytes": max(each["peak_memory_bytes"] for each in runs),
    }


def demo_text(summary: Mapping[str, Any]) -> str:
    """The table, what its columns mean, and which differences are larger than their error.

    Args:
        summary: ``teacher_top1``, and what `summarize` returns.
    """
    rows, teacher = summary["rows"], summary["teacher_top1"]
    cells = [["teacher", "", f"{teacher:.1f} %", "", "", ""]]
    cells += [_cells(name, row) for name, row in rows.items()]
    headings = ["", "parameters", "top-1", "images/s", "bytes/image", "peak memory"]
    first = next(iter(rows.values()))
    num_seeds, num_images = len(first["top1"]), first["num_images"]
    what = "one seed" if num_seeds == 1 else f"mean ± standard deviation over {num_seeds} seeds"
    fraction = teacher / 100
    error = 100 * math.sqrt(fraction * (1 - fraction) / num_images)
    meaning = _MEANING.format(num_images=num_images, what=what, error=error)
    return f"{text_table(headings, cells)}\n\n{meaning}\n\n{verdict(rows, summary['least_difference'])}"


def _cells(name: str, row: Mapping[str, Any]) -> list[str]:
    spread = "" if row["top1_sd"] is None else f" ± {row['top1_sd']:.1f}"
    return [
        name,
        f"{row['num_parameters'] / 1e3:.0f} k",
        f"{row['top1_mean']:.1f}{spread} %",
        f"{row['images_per_s']:.0f}",
        size_text(row["target_bytes_per_view"]),
        size_text(row["peak_memory_bytes"]),
    ]


def verdict(rows: Mapping[str, Mapping[str, Any]], least: float | None) -> str:
    """Which rows differ by more than seeds explain, and nothing about the others.

    Args:
        rows: With ``top1`` and ``top1_mean`` in percent.
        least: The least difference that counts, in points; None where there is one seed only.
    """
    if least is None:
        return (
            "One seed has no error bar: another seed may turn the order of the rows around. `--seeds 3` shows how far "
            "it moves them."
        )
    differing: list[str] = []
    for one, other in combinations(rows, 2):
        low, high = sorted((one, other), key=lambda name: rows[name]["top1_mean"])
        points = rows[high]["top1_mean"] - rows[low]["top1_mean"]
        if points > least:
            differing.append(f"{high} above {low} ({points:.1f})")
    seeds = counted(len(next(iter(rows.values()))["top1"]), "seed")
    rule = f"With {seeds} a row, rows differ where their means are more than {least:.1f} points apart (Tukey, 95 %)"
    if not differing:
        return f"{rule}: none do here, so this table ranks nothing."
    return f"{rule}:\n{', '.join(differing)}.\nAll other differences may come from the seeds."
