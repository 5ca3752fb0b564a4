"""Runs that differ in their seed only, and the run without feature terms that each is measured against."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kdcache.reports.inputs import RunInput
from kdcache.reports.repeats import mean_and_sd
from kdcache.reports.run_terms import configured_terms, method_of, reads_tokens


@dataclass(frozen=True)
class SeedGroup:
    """Finished runs of one configuration.

    Args:
        runs: By seed.
    """

    runs: dict[int, RunInput]

    @property
    def first(self) -> RunInput:
        """The run of the smallest seed."""
        return next(iter(self.runs.values()))

    @property
    def label(self) -> str:
        """The first run's label, and how many more there are."""
        return self.first.label + (f" and {len(self.runs) - 1} more" if len(self.runs) > 1 else "")

    @property
    def has_feature_term(self) -> bool:
        """Whether a term reads tokens."""
        return any(reads_tokens(term) for term in configured_terms(self.first))

    def values(self, read: Callable[[RunInput], float | None]) -> dict[int, float]:
        """One number of each run that has it, by seed."""
        found = {seed: read(run) for seed, run in self.runs.items()}
        return {seed: value for seed, value in found.items() if value is not None}


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (n - 1) over seeds; no deviation of a single one."""

    mean: float
    sd: float | None
    count: int


def spread(values: Sequence[float]) -> Spread | None:
    """None of no values."""
    if not values:
        return None
    return Spread(*mean_and_sd(values), len(values))


def seed_groups(runs: Sequence[RunInput]) -> tuple[list[SeedGroup], list[str]]:
    """Finished runs with a recorded configuration, grouped.

    Returns: the groups in the order of their first runs, and a sentence for each run that is in none.
    """
    groups: dict[str, dict[int, RunInput]] = {}
    left_out: list[str] = []
    for run in runs:
        config = run.record.get("config")
        if run.summary is None:
            left_out.append(f"{run.label}: not finished")
        elif not isinstance(config, dict) or not isinstance(seed := config.get("seed"), int):
            left_out.append(f"{run.label}: its config.json names no seed")
        elif seed in (group := groups.setdefault(_configuration(run), {})):
            left_out.append(f"{run.label}: the same configuration and seed as {group[seed].label}")
        else:
            group[seed] = run
    return [SeedGroup(dict(sorted(group.items()))) for group in groups.values()], left_out


def control_of(
    group: SeedGroup, groups: Sequence[SeedGroup], cache_of: Callable[[RunInput], object]
) -> SeedGroup | None:
    """The same student, change and other terms without a term on tokens; None where nobody ran it.

    Args:
        group: With a term on tokens.
        groups: All groups.
        cache_of: A run's cache; None where it is not known, and then any will do.
    """
    return next((each for each in groups if _is_control(each, group, cache_of)), None)


def increments(group: SeedGroup, control: SeedGroup, read: Callable[[RunInput], float | None]) -> list[float]:
    """Differences to the control, for every seed that both have."""
    ours, theirs = group.values(read), control.values(read)
    return [ours[seed] - theirs[seed] for seed in ours if seed in theirs]


def _is_control(each: SeedGroup, group: SeedGroup, cache_of: Callable[[RunInput], object]) -> bool:
    if each.has_feature_term or _without_features(each.first) != _without_features(group.first):
        return False
    # The teacher's width is written out in the control only, which reads no tokens to know it from.
    sizes = [(run.summary or {}).get("num_parameters") for run in (each.first, group.first)]
    caches = [cache_of(run) for run in (each.first, group.first)]
    return sizes[0] == sizes[1] and (None in caches or caches[0] == caches[1])


def _configuration(run: RunInput) -> str:
    config = {name: value for name, value in run.record["config"].items() if name != "seed"}
    return json.dumps([config, run.record.get("cache")], sort_keys=True)


def _without_features(run: RunInput) -> str:
    config: dict[str, Any] = dict(run.record["config"])
    change = method_of(run).get("change")
    others = [term for term in configured_terms(run) if not reads_tokens(term)]
    config["method"] = [
        change.get("name") if isinstance(change, dict) else change,
        sorted(json.dumps(term, sort_keys=True) for term in others),
    ]
    del config["seed"]
    return json.dumps(config, sort_keys=True)
