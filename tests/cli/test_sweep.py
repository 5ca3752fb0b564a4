"""`kdcache sweep`: one command from ranks to knee."""

import json
from pathlib import Path

import pytest
import timm

from kdcache.cli.main import main
from kdcache.errors import UsageError
from kdcache.students.low_rank import LowRank
from kdcache.train import rank_sweep
from kdcache.train.config import RunConfig
from kdcache.train.folder import save_weights
from tests.cli.support import without
from tests.conftest import GROUP, SECOND_KWARGS, STUDENT_KWARGS


def command(cache: Path, tmp_path: Path, *more: str) -> list[str]:
    weights = tmp_path / "dense.safetensors"
    if not weights.is_file():
        model = timm.create_model("vit_tiny_patch16_224", img_size=16, num_classes=10, **STUDENT_KWARGS)
        save_weights(weights, model)
    kwargs = [f"{name}={value}" for name, value in STUDENT_KWARGS.items()]
    return [
        "sweep", "--ranks", "1,3,9", "--cache", str(cache), "--student", "vit_tiny_patch16_224", "--student-kwargs",
        *kwargs, "--student-weights", str(weights), "--codec", "fp16", "--eval-data", "digits:test", "--epochs", "1",
        "--batch-size", "4",
        "--set", "eval.crop_pct=1", "--out", str(tmp_path / "ranks"), *more,
    ]  # fmt: skip


@pytest.mark.slow
def test_from_ranks_to_knee_and_into_the_report(
    tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(tiny_root, tmp_path)) == 0
    printed = capsys.readouterr().out
    assert "85 to 95 % of the teacher's accuracy: ranks" in printed
    table = (tmp_path / "ranks" / "ranks.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in table] == ["rank", "1", "3", "9"]
    found = json.loads((tmp_path / "ranks" / "analysis" / "analysis.json").read_bytes())["effective_rank"]
    assert found["ranks"] == [1.0, 3.0, 9.0]
    page = tmp_path / "report.html"
    assert main(["report", str(tmp_path / "ranks" / "analysis"), "--out", str(page)]) == 0
    assert "Effective rank" in page.read_text()
    # Again: nothing is trained, and the same is found.
    capsys.readouterr()
    assert main(command(tiny_root, tmp_path, "--json")) == 0
    assert json.loads(capsys.readouterr().out)["effective_rank"] == found


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--ranks", "2,4"], "wanted three or more different ranks"),
        (["--ranks", "2,four,8"], "wanted numbers with commas between them"),
        (["--seed", "1"], "--seed would be ignored"),
        (["--seeds", "0"], "--seeds must be at least 1"),
        (["--teacher", "online"], "trains from cached outputs"),
        (["--beside", "runs/a"], "--beside would be ignored"),
        (["--ranks", "2,2,4"], "ranks must be different numbers from 1"),
        (["--set", "seed=7"], "--set seed=7 would be ignored: a sweep sets it, by --seeds"),
        (["--set", "method.change.rank=8"], "a sweep sets it, by --ranks"),
        (["--set", "method.change.budget=0.5"], "a sweep sets it, by --ranks"),
        (["--method", "low-rank:rank=8"], "rank would be ignored: a sweep sets the rank, by --ranks"),
        (["--method", "lillama:budget=0.3"], "budget would be ignored: a sweep sets the rank, by --ranks"),
        (["--change", "low-rank:rank=8"], "--change low-rank:rank=8: rank would be ignored"),
        (["--teacher-accuracy", "0"], "the teacher's accuracy must be above 0 and at most 100 %, got 0"),
        (["--set", "eval.data=none"], "give labelled images with --eval-data"),
        (["--group", "nobody"], "no group 'nobody'"),
        (["--method", "lift"], "needs the change low-rank with a rank"),
    ],
)
def test_mistakes_are_named(
    tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    once = (
        "--eval-data" if "eval.data=none" in more else more[0] if more[0] in ("--ranks", "--seeds", "--method") else ""
    )
    assert main([*without(command(tiny_root, tmp_path), once), *more]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("method", "change"),
    [
        (["--method", "low-rank:init=random"], LowRank(rank=1, init="random")),
        (["--method", "logit", "--change", "low-rank:init=random"], LowRank(rank=1, init="random")),
        (["--method", "lillama:mode=teacher"], LowRank(rank=1)),
        (["low-rank-vit-base"], LowRank(rank=32)),
    ],
)
def test_a_method_or_change_needs_no_rank_of_its_own(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: list[str], change: LowRank
) -> None:
    seen: list[RunConfig] = []

    def check(config: RunConfig, ranks: list[int]) -> None:
        seen.append(config)
        raise UsageError(f"ranks {ranks}")

    monkeypatch.setattr(rank_sweep, "check_sweep", check)
    assert main(command(tiny_root, tmp_path, *method)) == 2
    assert seen[0].method.change == change


def test_of_several_groups_one_is_named_and_what_training_tells_is_shown(
    groups_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = command(groups_root, tmp_path, "--set", "eval.data=digits:test", "--teacher-accuracy", "50")
    at = words.index("--eval-data")
    del words[at : at + 2]
    at = words.index("--codec")
    del words[at : at + 2]
    words += ["--method", "feature:teacher=blocks.0/patch", "--change", "low-rank"]
    words += ["--term", "cross-entropy:weight=0", "--term", "logits:weight=0"]
    assert main(words) == 2
    message = capsys.readouterr().err
    assert f"groups {GROUP}, wide hold patch tokens, the analysis is of one of them; choose one with --group" in message
    assert not (tmp_path / "ranks").exists()
    assert main([*words, "--group", "wide"]) == 0
    printed, told = capsys.readouterr()
    assert "with the tokens of group wide" in printed
    layers = json.loads((tmp_path / "ranks" / "analysis" / "analysis.json").read_bytes())["layers"]
    assert {layer["num_channels"] for layer in layers} == {SECOND_KWARGS["embed_dim"]}
    assert "teacher: top-1 50.00 %" in told
    assert told.count("no term reads the student's logits, so its head stays untrained") == 3
    assert told.count("epoch 0: top-1") == 3
