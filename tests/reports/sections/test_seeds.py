from pathlib import Path

from kdcache.reports.blocks import Bullets
from kdcache.reports.inputs import read_inputs
from kdcache.reports.sections.runs import runs_section
from kdcache.reports.sections.seeds import spread_text
from kdcache.reports.seeds import Spread
from tests.reports.looking import blocks_of, cells, tables
from tests.reports.synthetic_runs import write_run

DASH = "\N{EN DASH}"


def test_seeds_controls_and_increments(tmp_path: Path) -> None:
    top1 = {"lift": (80.0, 84.0, 82.0), "lift-control": (79.0, 80.0), "feature": (77.0,)}
    folders = [
        write_run(tmp_path / f"{method}-{seed}", method=method, seed=seed, top1=value)
        for method, values in top1.items()
        for seed, value in enumerate(values)
    ]
    section = runs_section(read_inputs(folders).runs)
    table = next(each for each in tables(section) if "increment" in each.headings)
    lift, control, feature = cells(table)
    assert lift == [
        "lift-0 and 2 more", "lift", "lift", "3", "0 1 2", "82.00 ± 2.00", "lift-control-0 and 1 more", "79.50 ± 0.71",
        "+2.50 ± 2.12 (n = 2)",
    ]  # fmt: skip
    assert control[5:] == ["79.50 ± 0.71", "no feature term", DASH, DASH]
    assert feature[3:] == ["1", "0", "77.00", "no control run", DASH, DASH]


def test_a_control_without_a_common_seed_gives_no_increment(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / "a"), write_run(tmp_path / "b", method="lift-control", seed=1)]
    section = runs_section(read_inputs(folders).runs)
    table = next(each for each in tables(section) if "increment" in each.headings)
    assert cells(table)[0][6:] == ["b", "75.00", "no seed in common"]


def test_runs_in_no_row_are_named(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / "a"), write_run(tmp_path / "b", finished=False)]
    section = runs_section(read_inputs(folders).runs)
    bullets = [block for block in blocks_of(section) if isinstance(block, Bullets)]
    assert list(bullets[0].items) == ["b: not finished"]
    alone = runs_section(read_inputs([folders[1]]).runs)
    assert not any("increment" in each.headings for each in tables(alone))


def test_spreads_as_text() -> None:
    assert spread_text(None) == DASH
    assert spread_text(Spread(1.0, None, 1)) == "1.00"
    assert spread_text(Spread(-0.5, 0.25, 2), signed=True) == "-0.50 ± 0.25"
