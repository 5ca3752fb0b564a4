import json
from pathlib import Path

from kdcache.reports.inputs import read_inputs
from kdcache.reports.run_terms import configured_terms, feature_terms, logged_terms, method_of
from tests.reports.synthetic_runs import COLUMN, write_run


def test_terms_on_tokens_are_those_that_read_some(tmp_path: Path) -> None:
    lift, logit = read_inputs([write_run(tmp_path / "a"), write_run(tmp_path / "b", method="logit")]).runs
    (term,) = feature_terms(lift)
    assert (term.label, term.name, term.loss, term.columns) == ("tokens", "tokens", 0.125, [COLUMN])
    assert term.settings["loss"] == "mse"
    assert term.student_taps == ["change/tokens"]
    assert feature_terms(logit) == []
    assert [each["name"] for each in configured_terms(lift)] == ["cross-entropy", "logits", "tokens"]


def test_terms_of_weight_zero_do_not_count(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    record = json.loads((folder / "config.json").read_bytes())
    record["config"]["method"]["terms"][2]["weight"] = 0.0
    (folder / "config.json").write_text(json.dumps(record))
    (run,) = read_inputs([folder]).runs
    assert [each["name"] for each in configured_terms(run)] == ["cross-entropy", "logits"]


def test_an_unfinished_run_and_one_without_a_configuration(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", finished=False)
    (run,) = read_inputs([folder]).runs
    assert feature_terms(run) == []
    assert len(configured_terms(run)) == 3
    (folder / "config.json").unlink()
    (run,) = read_inputs([folder]).runs
    assert (configured_terms(run), method_of(run)) == ([], {})


def test_logged_terms_are_what_is_not_the_loop_s(tmp_path: Path) -> None:
    (run,) = read_inputs([write_run(tmp_path / "a")]).runs
    assert logged_terms(run.steps) == ["cross-entropy", "logits", "tokens"]
    assert logged_terms([]) == []
