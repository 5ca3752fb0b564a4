"""Runs over seeds, and what their feature terms add."""

from collections.abc import Callable, Sequence

from kdcache.reports.blocks import Block, Bullets, Details, Heading, Row, Table
from kdcache.reports.explained import Explainer
from kdcache.reports.inputs import RunInput
from kdcache.reports.run_terms import method_of
from kdcache.reports.seeds import SeedGroup, Spread, control_of, increments, seed_groups, spread
from kdcache.reports.words import NOTHING

_HEADINGS = ("run", "method", "student change", "n", "seeds", "top-1", "control", "control's top-1", "increment")


def seeds_blocks(
    runs: Sequence[RunInput], explainer: Explainer, top1: Callable[[RunInput], float | None]
) -> list[Block]:
    """A table of runs grouped by seed; empty where no finished run has a configuration.

    Args:
        runs: All runs.
        explainer: Knows the runs' caches.
        top1: Of a run, in percent.
    """
    groups, left_out = seed_groups(runs)
    if not groups:
        return []
    table = Table(
        _HEADINGS,
        [_row(group, groups, explainer, top1) for group in groups],
        "Runs of one configuration but for the seed: mean top-1 in percent ± standard deviation over seeds, and the "
        "number n of seeds. The control is the same student, with the same change and the same other terms, trained "
        "without any term on tokens; the increment is the mean difference to it ± its standard deviation over the "
        "seeds that both have. A single seed has no deviation, and its difference may be noise.",
    )
    blocks: list[Block] = [Heading("Over seeds"), table]
    if left_out:
        blocks.append(Details("Runs in no row", [Bullets(left_out)]))
    return blocks


def _row(
    group: SeedGroup,
    groups: Sequence[SeedGroup],
    explainer: Explainer,
    top1: Callable[[RunInput], float | None],
) -> Row:
    method = method_of(group.first)
    change = method.get("change")
    control = control_of(group, groups, explainer.cache_of) if group.has_feature_term else None
    return Row(
        (
            group.label,
            str(method.get("name", NOTHING)),
            str(change.get("name", NOTHING)) if isinstance(change, dict) else NOTHING,
            str(len(group.runs)),
            " ".join(map(str, group.runs)),
            spread_text(spread(list(group.values(top1).values()))),
            *_against(group, control, top1),
        )
    )


def _against(
    group: SeedGroup, control: SeedGroup | None, top1: Callable[[RunInput], float | None]
) -> tuple[str, str, str]:
    if not group.has_feature_term:
        return ("no feature term", NOTHING, NOTHING)
    if control is None:
        return ("no control run", NOTHING, NOTHING)
    theirs = spread_text(spread(list(control.values(top1).values())))
    found = spread(increments(group, control, top1))
    if found is None:
        return (control.label, theirs, "no seed in common")
    return (control.label, theirs, f"{spread_text(found, signed=True)} (n = {found.count})")


def spread_text(found: Spread | None, *, signed: bool = False) -> str:
    """``75.20 ± 0.31``, without the deviation of a single seed."""
    if found is None:
        return NOTHING
    mean = f"{found.mean:+.2f}" if signed else f"{found.mean:.2f}"
    return mean if found.sd is None else f"{mean} ± {found.sd:.2f}"
