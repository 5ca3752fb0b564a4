import csv
import json
import re
from pathlib import Path

import pytest

from kdcache.cli.main import main
from kdcache.recipes import RECIPES
from tests.cli.support import fails, without
from tests.conftest import STUDENT_KWARGS

KWARGS = [f"{name}={value}" for name, value in STUDENT_KWARGS.items()]


def words(root: Path | str, out: Path, *more: str) -> list[str]:
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
    assert "proj_mse 12 to 24 ran in torch: " in shown.out
    summary = json.loads((tmp_path / "run" / "summary.json").read_bytes())
    assert main(["eval", str(tmp_path / "run"), "--data", "digits:test", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["top1"] == pytest.approx(summary["top1"])
    table = tmp_path / "predictions.csv"
    ema = ["eval", str(tmp_path / "run"), "--data", "digits:test", "--weights", "ema"]
    assert main([*ema, "--predictions", str(table)]) == 0
    predictions = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    assert len(predictions) == 360
    assert re.search(r"ema weights, top-1 .* of 360 images", capsys.readouterr().out)
    num_right = sum(row["label"] == row["class1"] for row in predictions)
    assert main([*ema, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["top1"] == pytest.approx(100 * num_right / 360)
    assert f"best {summary['best_top1']:.2f} % after {summary['best_epoch']} epochs" in shown.out
    assert main(["eval", str(tmp_path / "run"), "--data", "digits:test", "--weights", "best", "--json"]) == 0
    best = json.loads(capsys.readouterr().out)
    assert (best["weights"], best["top1"]) == ("best", pytest.approx(summary["best_top1"]))


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
    changes += ["--set", "data.views_per_sample=1"]
    command = ["train", "em-deit-tiny-none", "--cache", str(tiny_root), "--out", str(tmp_path / "run"), *changes]
    assert main(command) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_bytes())["config"]
    assert (config["epochs"], config["batch_size"], config["ema_decay"]) == (1, 4, 0.99996)
    shown = capsys.readouterr().err
    assert "em-deit-tiny-none: DeiT-Tiny without a teacher. Published top-1 74.86. Published with new views" in shown
    with pytest.raises(SystemExit) as left:
        main(["train", "--recipes"])
    assert left.value.code == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == list(RECIPES)
    wanted = fails(capsys, ["train", "em-lift-logit-mse", "--cache", str(tiny_root), "--out", str(tmp_path / "r")])
    assert "holds teacher 'vit_tiny_patch16_224', this run wants 'cait_s24_224'" in wanted


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--method", "magic"], "unknown method 'magic'; there are none, logit, feature, spectral"),
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
        (["--method", "lift:feature_weight=0,loss=cosine"], "loss would be ignored: its term has weight 0"),
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
        (["--student-kwargs", "num_classes=3"], "would be ignored: the run decides; set num_classes"),
        (["--student-kwargs", "img_size=32"], "set image_size=32"),
    ],
)
def test_mistakes_are_usage_errors(
    tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    once = [word for word in more if word in ("--method", "--epochs", "--batch-size", "--codec")]
    command = [*without(words(tiny_root, tmp_path / "run"), *once), *more]
    assert message in fails(capsys, command, code=2)


def test_few_images_train_without_a_batch_size(
    tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*without(words(tiny_root, tmp_path / "run"), "--batch-size"), "--set", "log_every=1"]) == 0
    shown = capsys.readouterr()
    assert "5 steps" in shown.out
    assert "batch size 4, not 64: chosen for few images" in shown.err
    assert json.loads((tmp_path / "run" / "config.json").read_bytes())["config"]["batch_size"] == 4
    assert main(without(words(tiny_root, tmp_path / "run"), "--batch-size")) == 0


def test_nothing_chosen(tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "--cache", str(tiny_root), "--out", str(tmp_path / "run")]
    assert "give --student and --method, or a recipe" in fails(capsys, command, code=2)
    assert "unknown recipe 'lift'" in fails(capsys, ["train", "lift", *command[1:]], code=2)


def test_a_few_images_of_each_class(tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--per-class", "1", "--per-class-seed", "12"]
    assert main(words(tiny_root, tmp_path / "run", *few, "--epochs", "2", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 4, "9 classes among 20 digits, batches of 4"
    recorded = json.loads((tmp_path / "run" / "config.json").read_bytes())["config"]["data"]
    assert (recorded["per_class"], recorded["per_class_seed"]) == ("1", 12)
    for other, named in ((["--per-class", "1", "--per-class-seed", "1"], "data.per_class_seed: the run has 12"),
                         (["--per-class", "100%", "--per-class-seed", "12"], "data.per_class: the run has '1'"),
                         ([], "data.per_class: the run has '1'")):  # fmt: skip
        error = fails(capsys, words(tiny_root, tmp_path / "run", *other, "--epochs", "2"))
        assert "holds another run" in error
        assert named in error


def test_repeated_augmentation(tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """20 images of two views: five batches of four views in either case, of all images or of half of them."""
    repeated = ["--set", "data.views_per_sample=2", "--set", "data.epoch_of=views", "--epochs", "2", "--json"]
    assert main(words(tiny_root, tmp_path / "run", *repeated)) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 10
    assert main(words(tiny_root, tmp_path / "all", *repeated[:2], *repeated[4:])) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 20
