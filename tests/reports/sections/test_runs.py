import json
from pathlib import Path

import pytest

from kdcache.reports.inputs import read_inputs
from kdcache.reports.sections.runs import figure, finite, runs_section
from tests.reports.looking import cells, plots, tables
from tests.reports.synthetic import write_demo
from tests.reports.synthetic_runs import write_run


def test_runs_stand_side_by_side(tmp_path: Path) -> None:
    section = runs_section(read_inputs([write_demo(tmp_path / "demo")]).runs)
    rows = {row[0]: row[1:] for row in cells(tables(section)[0])}
    error = (75 * 25 / 360) ** 0.5
    assert rows["Lift, fp16 cache"] == [
        "vit_tiny_patch16_224", "lift", "125,000", f"75.00 ± {error:.2f}", "80.00", "900.5", "3.1 %", "5.12 kB",
        "923 MB",
    ]  # fmt: skip
    accuracy, loss, cross_entropy, logits, tokens = plots(section)
    assert "teacher: 95.00 %" in accuracy.svg
    assert "student alone" in loss.svg
    assert "term cross-entropy over steps" in cross_entropy.svg
    assert "student alone" in cross_entropy.svg
    assert "term logits over steps" in logits.svg
    assert "student alone" not in logits.svg
    assert "term tokens over steps" in tokens.svg
    assert "student alone" not in tokens.svg


def test_terms_are_drawn_by_their_labels_whatever_they_are(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "r")
    lines = [{"kind": "step", "step": at, "loss": 1.0, "tokens": 0.5, "tokens-2": 0.4, "gram": 0.1} for at in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    drawn = [plot.svg for plot in plots(runs_section(read_inputs([folder]).runs))]
    assert [
        f"term {label} over steps" in svg for svg, label in zip(drawn[1:], ("tokens", "tokens-2", "gram"), strict=True)
    ]
    assert len({svg.split('id="')[1].split('"')[0] for svg in drawn}) == 4


def test_an_unfinished_run_shows_what_it_logged(tmp_path: Path) -> None:
    (run,) = read_inputs([write_run(tmp_path / "r", finished=False)]).runs
    (row,) = cells(tables(runs_section([run]))[0])
    assert row[0] == "r (unfinished, step 20)"
    assert row[1:3] == ["vit_tiny_patch16_224", "lift"]
    assert row[4].startswith("75.00")
    assert row[5] == "80.00"
    assert row[9] == "\N{EN DASH}"


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "metrics.jsonl").write_text("")
    section = runs_section(read_inputs([tmp_path / "new"]).runs)
    assert cells(tables(section)[0])[0][0] == "new (unfinished, step 0)"
    assert plots(section) == []


def test_what_is_no_number_is_left_out(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "r")
    lines = [{"kind": "step", "step": 10, "loss": value} for value in (float("nan"), "much", True, 0.0, 0.5)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert len(plots(runs_section(read_inputs([folder]).runs))) == 1


@pytest.mark.parametrize("value", [float("inf"), "1", None, True])
def test_finite(value: object) -> None:
    assert finite(value) is None


def test_figures_come_from_the_summary_first(tmp_path: Path) -> None:
    (run,) = read_inputs([write_run(tmp_path / "r")]).runs
    assert figure(run, "images_per_s") == 900.5
    assert figure(run, "loss") == 0.5
    assert figure(run, "nothing") is None


def test_none_without_a_run() -> None:
    assert runs_section([]) is None
