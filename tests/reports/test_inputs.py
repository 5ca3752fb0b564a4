import json
from pathlib import Path

import pytest

from kdcache.errors import CorruptCacheError, RunMismatchError, UsageError
from kdcache.reports.inputs import read_inputs
from tests.reports.synthetic import write_demo, write_full, write_stored_only
from tests.reports.synthetic_runs import run_summary, write_run


def test_every_kind_is_recognised_by_its_content(tmp_path: Path, tiny_root: Path) -> None:
    found = read_inputs([write_full(tmp_path / "a"), write_run(tmp_path / "r"), write_demo(tmp_path / "d"), tiny_root])
    assert [each.label for each in found.analyses] == ["inet"]
    assert {run.label: run.teacher_top1 for run in found.runs} == {
        "r": None,
        "student alone": 95.0,
        "Lift, fp16 cache": 95.0,
    }
    assert [cache.label for cache in found.caches] == [tiny_root.name]


def test_a_folder_given_twice_counts_once(tmp_path: Path) -> None:
    demo, analysis = write_demo(tmp_path / "demo"), write_full(tmp_path / "a")
    found = read_inputs([demo, demo / "lift-run", demo, analysis, tmp_path / "demo" / ".." / "a"])
    assert len(found.runs) == 2
    assert len(found.analyses) == 1


def test_names_that_repeat_become_paths(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / part / "lift") for part in ("x", "y")]
    analyses = [write_full(tmp_path / "p"), write_full(tmp_path / "q")]
    found = read_inputs([*runs, *analyses, write_run(tmp_path / "other")])
    assert [run.label for run in found.runs] == [str(runs[0]), str(runs[1]), "other"]
    assert [each.label for each in found.analyses] == [str(tmp_path / "p"), str(tmp_path / "q")]


def test_a_folder_may_be_several_things(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    write_stored_only(folder)
    found = read_inputs([folder])
    assert (len(found.runs), len(found.analyses)) == (1, 1)


def test_an_unfinished_run_is_a_run(tmp_path: Path) -> None:
    (run,) = read_inputs([write_run(tmp_path / "r", finished=False)]).runs
    assert run.summary is None
    assert len(run.steps) == 4


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_anything_else_is_refused_with_what_is_accepted(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=name) as caught:
        read_inputs([tmp_path / name])
    assert ("no such folder" if name == "nothing" else "analysis.json") in str(caught.value)


def test_a_demo_without_one_of_its_runs_says_which(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(
        json.dumps({"runs": {"Lift": {**run_summary("lift"), "folder": "gone/lift"}}})
    )
    with pytest.raises(UsageError, match="'Lift' in gone/lift"):
        read_inputs([tmp_path])


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("metrics.jsonl", '{"kind": "step"}\nnot json\n{"kind": "step"}\n'),
        ("metrics.jsonl", '{"no": "kind"}\n'),
        ("config.json", "[1]"),
        ("summary.json", "[1]"),
        ("summary.json", "{"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, file: str, text: str) -> None:
    folder = write_run(tmp_path / "run")
    (folder / file).write_text(text)
    with pytest.raises((CorruptCacheError, RunMismatchError), match=file):
        read_inputs([folder])
