"""The streaming comparison as Markdown."""

from typing import Any

_YARDSTICKS = {"A": "memcpy", "B": "memcpy", "C": "the decoder alone"}


def markdown(result: dict[str, Any]) -> str:
    """One table for all workloads and orders: ratio to the yardstick, and samples a second warm and cold."""
    cases = list(dict.fromkeys((row["workload"], row["order"]) for row in result["loaders"]))
    rows = {(row["loader"], row["workload"], row["order"]): row for row in result["loaders"]}
    loaders = sorted({row["loader"] for row in result["loaders"]}, key=lambda name: _rank(name, cases, rows))
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [
        "# Streaming",
        "",
        f"{result['date']}, {result['device']}, {result['cpu_count']} cores, {versions}. Medians of "
        f"{result['settings']['repeats']} turns; cold: of {result['settings']['cold']}.",
        "",
        "| loader | " + " | ".join(f"{name} {order}" for name, order in cases) + " |",
        "|---|" + "--:|" * len(cases),
    ]
    lines += [f"| {name} | " + " | ".join(_cell(rows.get((name, *case))) for case in cases) + " |" for name in loaders]
    lines += [
        "",
        "Each cell: ratio to "
        + ", ".join(f"{what} ({name})" for name, what in _YARDSTICKS.items() if name in {case[0] for case in cases})
        + ", thousands of samples a second, and the same from a cold page cache.",
        "",
    ]
    for loader in loaders:
        first = next(row for row in result["loaders"] if row["loader"] == loader)
        settings = "; ".join(f"{name} {value}" for name, value in first["settings"].items())
        lines.append(f"- **{loader}** ({', '.join(f'{k} {v}' for k, v in first['versions'].items())}): {settings}")
    lines += [f"- not measured: {error}" for error in result["errors"]]
    return "\n".join(lines) + "\n"


def _rank(name: str, cases: list[tuple[str, str]], rows: dict[tuple[str, str, str], dict[str, Any]]) -> float:
    found = [rows[(name, *case)]["ratio"]["median"] for case in cases if (name, *case) in rows]
    return -max(found)


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    warm = f"**{row['ratio']['median']:.2f}** {row['samples_per_s']['median'] / 1000:,.3g}k"
    cold = row["cold_samples_per_s"]
    return warm if cold is None else f"{warm} / {cold['median'] / 1000:,.3g}k"
