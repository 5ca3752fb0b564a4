import json
from pathlib import Path
from typing import Any

import pytest

from kdcache.reports.inputs import RunInput, read_inputs
from kdcache.reports.seeds import control_of, increments, seed_groups, spread
from tests.reports.synthetic_runs import write_run


def anywhere(run: RunInput) -> None:
    """No cache is known."""


def top1(run: RunInput) -> float | None:
    return None if run.summary is None else run.summary["top1"]


def runs_of(tmp_path: Path, *wanted: tuple[str, int, dict[str, Any]]) -> list[RunInput]:
    folders = [
        write_run(tmp_path / f"{at}-{method}", method=method, seed=seed, **more)
        for at, (method, seed, more) in enumerate(wanted)
    ]
    return read_inputs(folders).runs


def test_runs_that_differ_in_their_seed_only_are_a_group(tmp_path: Path) -> None:
    runs = runs_of(
        tmp_path,
        ("lift", 2, {"top1": 70.0}),
        ("logit", 0, {}),
        ("lift", 1, {"top1": 74.0}),
        ("lift", 3, {"term": {"weight": 0.5}}),
        ("lift", 4, {"cache": "cd" * 32}),
    )
    groups, left_out = seed_groups(runs)
    assert [(group.label, list(group.runs)) for group in groups] == [
        ("2-lift and 1 more", [1, 2]),
        ("1-logit", [0]),
        ("3-lift", [3]),
        ("4-lift", [4]),
    ]
    assert left_out == []
    assert groups[0].values(top1) == {1: 74.0, 2: 70.0}


def test_runs_in_no_group_are_named(tmp_path: Path) -> None:
    runs = runs_of(tmp_path, ("lift", 0, {}), ("lift", 0, {}), ("lift", 1, {"finished": False}), ("none", 0, {}))
    bare = write_run(tmp_path / "bare")
    (bare / "config.json").unlink()
    groups, left_out = seed_groups([*runs, *read_inputs([bare]).runs])
    assert len(groups) == 2
    assert left_out == [
        "1-lift: the same configuration and seed as 0-lift",
        "2-lift: not finished",
        "bare: its config.json names no seed",
    ]


def test_the_spread_over_seeds_is_that_of_a_sample() -> None:
    assert spread([]) is None
    one, three = spread([5.0]), spread([1.0, 2.0, 3.0])
    assert one is not None
    assert three is not None
    assert (one.mean, one.sd, one.count) == (5.0, None, 1)
    assert (three.mean, three.sd, three.count) == (2.0, pytest.approx(1.0), 3)


def test_the_control_is_the_same_student_without_terms_on_tokens(tmp_path: Path) -> None:
    runs = runs_of(
        tmp_path,
        ("none", 0, {}),
        ("logit", 0, {}),
        ("feature", 0, {}),
        ("lift", 0, {}),
        ("lift-control", 0, {"width": 24}),
        ("widelast", 0, {}),
    )
    groups, _ = seed_groups(runs)
    none, logit, feature, lift, lift_control, widelast = groups
    assert control_of(feature, groups, anywhere) is logit
    assert control_of(lift, groups, anywhere) is lift_control
    assert control_of(widelast, groups, anywhere) is None
    assert [each.has_feature_term for each in (none, logit, feature)] == [False, False, True]


def test_another_width_another_weight_and_another_cache_are_no_control(tmp_path: Path) -> None:
    runs = runs_of(tmp_path, ("lift", 0, {}), ("lift-control", 0, {"width": 36, "num_parameters": 150000}))
    groups, _ = seed_groups(runs)
    assert control_of(groups[0], groups, anywhere) is None
    folder = write_run(tmp_path / "other", method="lift-control")
    record = json.loads((folder / "config.json").read_text())
    record["config"]["method"]["terms"][1]["weight"] = 0.5
    (folder / "config.json").write_text(json.dumps(record))
    groups, _ = seed_groups([runs[0], *read_inputs([folder]).runs])
    assert control_of(groups[0], groups, anywhere) is None
    groups, _ = seed_groups(runs_of(tmp_path / "caches", ("lift", 0, {}), ("lift-control", 0, {})))
    assert control_of(groups[0], groups, anywhere) is groups[1]
    assert control_of(groups[0], groups, lambda run: run.label) is None


def test_increments_are_taken_seed_by_seed(tmp_path: Path) -> None:
    runs = runs_of(
        tmp_path,
        ("lift", 0, {"top1": 80.0}),
        ("lift", 1, {"top1": 83.0}),
        ("lift", 2, {"top1": 90.0}),
        ("lift-control", 0, {"top1": 79.0}),
        ("lift-control", 1, {"top1": 80.0}),
        ("lift-control", 5, {"top1": 10.0}),
    )
    lift, control = seed_groups(runs)[0]
    assert increments(lift, control, top1) == [1.0, 3.0]
