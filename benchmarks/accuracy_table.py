"""The accuracy benchmark as Markdown: one line a row, and what the seeds carry of the differences."""

import statistics
from collections.abc import Sequence
from typing import Any

_MB = 1 << 20
# Two-sided 95 % quantiles of Student's t for 1 to 9 degrees of freedom; more of them take the last, which is wider.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
_COLUMNS = ("row", "n", "top-1, %", "step, ms", "waiting", "peak memory, MB", "targets, bytes a view", "parameters")


def markdown(result: dict[str, Any], names: Sequence[str], pairs: Sequence[tuple[str, str]]) -> str:
    """Both tables.

    Args:
        result: Of the benchmark.
        names: Rows in the order of the table; those that have no run are left out.
        pairs: (row, what it is compared with).
    """
    by_row = {name: runs_of(result, name) for name in ("teacher", *names)}
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [
        "# Accuracy",
        "",
        f"{result['date']}, {result['device']}, {result['cpu_count']} cores, {versions}; grid `{result['grid_name']}`, "
        f"{result['jobs']} runs at a time. Top-1 on all test images: mean ± standard deviation over n seeds of the "
        "student (teacher and cache are the same). Step, waiting and memory: medians over the runs, which shared the "
        "machine.",
        "",
        _table_line(_COLUMNS),
        "|---" + "|--:" * (len(_COLUMNS) - 1) + "|",
        *(_table_line(_cells(name, list(runs.values()))) for name, runs in by_row.items() if runs),
        "",
        "Differences in top-1 between two runs of one seed, in points. The interval is the 95 % interval of Student's "
        "t for the mean; where it holds 0, these seeds do not tell which is better. Nothing is corrected for the "
        "number of comparisons.",
        "",
        "| row | minus | n | mean ± sd | 95 % interval | above 0 |",
        "|---|---|--:|--:|--:|--:|",
    ]
    lines += [
        _table_line((one, two, *cells))
        for one, two in pairs
        if (cells := _pair(by_row.get(one, {}), by_row.get(two, {})))
    ]
    return "\n".join(lines) + "\n"


def runs_of(result: dict[str, Any], name: str) -> dict[int, dict[str, Any]]:
    """The finished runs of a row, by seed."""
    return {each["seed"]: each for each in result["runs"] if each["row"] == name}


def differences(one: dict[int, dict[str, Any]], two: dict[int, dict[str, Any]]) -> list[float]:
    """Top-1 of one row minus that of another, for every seed that both have."""
    return [one[seed]["top1"] - two[seed]["top1"] for seed in sorted(one.keys() & two.keys())]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of Student's t for the mean of at least two values."""
    mean = statistics.fmean(values)
    half = _T[min(len(values) - 1, len(_T)) - 1] * statistics.stdev(values) / len(values) ** 0.5
    return mean - half, mean + half


def _cells(name: str, runs: list[dict[str, Any]]) -> list[str]:
    top1 = [each["top1"] for each in runs]
    spread = f" ± {statistics.stdev(top1):.2f}" if len(top1) > 1 else ""

    def middle(key: str, form: str, scale: float = 1) -> str:
        values = [each[key] for each in runs if each.get(key) is not None]
        return format(statistics.median(values) * scale, form) if values else ""

    return [
        name,
        str(len(runs)),
        f"{statistics.fmean(top1):.2f}{spread}",
        middle("step_ms", ".1f"),
        middle("stall_share", ".1%"),
        middle("peak_memory_bytes", ".0f", 1 / _MB),
        middle("target_bytes_per_view", ",.0f"),
        middle("num_parameters", ",.0f"),
    ]


def _pair(one: dict[int, dict[str, Any]], two: dict[int, dict[str, Any]]) -> list[str]:
    values = differences(one, two)
    if len(values) < 2:
        return [str(len(values)), f"{values[0]:+.2f}", "", ""] if values else []
    low, high = interval(values)
    above = sum(value > 0 for value in values)
    spread = f"{statistics.fmean(values):+.2f} ± {statistics.stdev(values):.2f}"
    return [str(len(values)), spread, f"{low:+.2f} to {high:+.2f}", f"{above} of {len(values)}"]


def _table_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
