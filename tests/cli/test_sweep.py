"""`kdcache sweep`: one command from ranks to knee."""

import json
from pathlib import Path

import pytest
import timm

from kdcache.cli.main import main
from kdcache.train.folder import save_weights
from tests.conftest import STUDENT_KWARGS


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
        (["--teacher", "online"], "leave out --teacher online"),
        (["--method", "lift"], "needs the change low-rank with a rank"),
    ],
)
def test_mistakes_are_named(
    tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert main(command(tiny_root, tmp_path, *more)) == 2
    assert message in capsys.readouterr().err
