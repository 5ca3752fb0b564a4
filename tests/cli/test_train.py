import json
from pathlib import Path

import pytest

from kdcache.cli.main import main
from tests.cli.support import fails
from tests.conftest import STUDENT_KWARGS

KWARGS = [f"{name}={value}" for name, value in STUDENT_KWARGS.items()]


def words(root: Path, out: Path, *more: str) -> list[str]:
    student = [
        "--student",
        "vit_tiny_patch16_224",
        "--student-kwargs",
        *KWARGS,
        "--method",
        "lift:teacher=blocks.-1/patch",
        "--codec",
        "fp16",
    ]
    settings = ["--batch-size", "4"]
    return ["train", "--cache", str(root), "--out", str(out), *student, *settings, *more]


def test_train_and_eval(tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--epochs", "2", "--eval-data", "digits:test", "--set", "ema_decay=0.9", "--set", "log_every=1"]
    assert main(words(tiny_root, tmp_path / "run", *more)) == 0
    shown = capsys.readouterr()
    assert "10 steps" in shown.out
    assert "top-1" in shown.out
    assert "10/10 steps, " in shown.err
    assert "epoch 1: top-1" in shown.err
    top1 = json.loads((tmp_path / "run" / "summary.json").read_bytes())["top1"]
    assert main(["eval", str(tmp_path / "run"), "--data", "digits:test", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["top1"] == pytest.approx(top1)
    assert main(["eval", str(tmp_path / "run"), "--data", "digits:test", "--ema"]) == 0
    assert "of 360 images" in capsys.readouterr().out


def test_running_again_shows_the_same_summary(
    tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(tiny_root, tmp_path / "run", "--json")) == 0
    first = json.loads(capsys.readouterr().out)
    assert main(words(tiny_root, tmp_path / "run", "--json")) == 0
    assert json.loads(capsys.readouterr().out) == first


def test_the_twin_stands_beside_the_run(tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cached, online = tmp_path / "cached", tmp_path / "online"
    assert main(words(tiny_root, cached, "--term", "logits:temperature=2")) == 0
    assert (
        main(words(tiny_root, online, "--term", "logits:temperature=2", "--teacher", "online", "--beside", str(cached)))
        == 0
    )
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[1] for line in shown if line and line[0] in (str(cached), str(online))] == ["online", "cache"]
    config = json.loads((online / "config.json").read_bytes())["config"]
    assert config["online"]
    assert config["method"]["terms"][1]["temperature"] == 2.0


def test_recipes_take_flags_and_settings(tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = ["--epochs", "1", "--batch-size", "4", "--student", "vit_tiny_patch16_224", "--student-kwargs", *KWARGS]
    command = ["train", "standalone-deit-tiny", "--cache", str(tiny_root), "--out", str(tmp_path / "run"), *changes]
    assert main(command) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_bytes())["config"]
    assert (config["epochs"], config["batch_size"], config["ema_decay"]) == (1, 4, 0.99996)
    capsys.readouterr()
    wanted = fails(
        capsys, ["train", "lift-deit-tiny-cait-s24", "--cache", str(tiny_root), "--out", str(tmp_path / "r")]
    )
    assert "holds teacher 'vit_tiny_patch16_224', this run wants 'cait_s24_224'" in wanted


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--method", "magic"], "choose from none, logit, feature, spectral, lift, widelast"),
        (["--set", "optimizer.learning_rate=1"], "no field 'learning_rate'"),
        (["--method", "lift:feature_weight=-1"], "weight must be >= 0"),
        (["--method", "lift:tap=x"], "no key 'tap'"),
        (["--term", "magic"], "unknown term 'magic'; there are cross-entropy, logits"),
        (["--term", "tokens:los=mse"], "no key 'los'; did you mean loss?"),
        (["--term", "tokens:weight"], "'weight' is not one key=value"),
        (["--term", "tokens:name=x"], "no key 'name'"),
        (["--term", "tokens:resize=both"], "choose from refuse, student, teacher"),
        (["--method", "none", "--term", "tokens:weight=0"], "so it would be ignored"),
        (["--method", "none"], "codec fp16 would be ignored"),
        (["--method", "lift:feature_weight=0,loss=cosine"], "loss would be ignored, its term has weight 0"),
        (["--method", "logit:logit_weight=0,temperature=4"], "temperature would be ignored"),
        (["--term", "tokens:weight=nan"], "weight must be >= 0, got nan"),
        (["--term", "tokens:teacher=a+"], "has an empty part"),
        (["--set", "method.name=logit"], "choose a method and its settings with --method"),
        (["--method", "none", "--teacher", "online", "--codec", "none"], "so online=true would be ignored"),
        (["--teacher-weights", "hub"], "--teacher-weights would be ignored"),
        (["--beside", "nowhere"], "--beside nowhere: no finished run there"),
        (["--epochs", "0"], "epochs must be at least 1"),
        (["--batch-size", "100"], "does not fill one batch"),
        (["--student-kwargs", "depth"], "wanted NAME=VALUE"),
    ],
)
def test_mistakes_are_usage_errors(
    tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert message in fails(capsys, words(tiny_root, tmp_path / "run", *more), code=2)


def test_nothing_chosen(tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "--cache", str(tiny_root), "--out", str(tmp_path / "run")]
    assert "give --student and --method, or one of the recipes" in fails(capsys, command, code=2)
    assert "unknown recipe 'lift'" in fails(capsys, ["train", "lift", *command[1:]], code=2)
