"""A teacher of other classes than the images have: what is said, what is refused, and that every way out works."""

from pathlib import Path

import pytest

from kdcache.cli.main import main
from tests.cli.support import extract_words, fails
from tests.cli.test_train import KWARGS
from tests.conftest import TEACHER


def train_words(cache: Path, out: Path, *more: str) -> list[str]:
    student = ["--student", TEACHER, "--student-kwargs", *KWARGS, "--batch-size", "2"]
    return ["train", "--cache", str(cache), "--out", str(out), *student, *more]


def test_every_way_out_works(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = tmp_path / "c"
    assert main(extract_words(cache, data=str(photos), limit=None)) == 0
    shown = capsys.readouterr()
    assert "the labels have 2 classes, the teacher's logits 10" in shown.err
    assert shown.err.index("the labels have 2 classes") < shown.err.index("6/6 views"), "before the pass"
    assert "(labels: 2 classes)" in shown.out

    error = fails(capsys, train_words(cache, tmp_path / "no", "--method", "logit"), code=2)
    assert not (tmp_path / "no").exists()
    ways = ["--term logits:weight=0", "--term cross-entropy:weight=0", "--set same_classes=true"]
    for number, way in enumerate(ways):
        assert f"`{way}`" in error
        run = tmp_path / str(number)
        assert main(train_words(cache, run, "--method", "logit", *way.split())) == 0
    assert main(["eval", str(tmp_path / "0"), "--data", str(photos)]) == 0
    assert main(["eval", str(tmp_path / "2"), "--data", str(photos)]) == 0

    (tmp_path / "map.txt").write_text("\n".join(["a", "b", "c", "dog", "e", "f", "g", "cat", "i", "j"]))
    class_map = ["--class-map", str(tmp_path / "map.txt")]
    error = fails(capsys, ["eval", str(tmp_path / "1"), "--data", str(photos)])
    assert "`kdcache eval --class-map FILE`" in error
    assert main(["eval", str(tmp_path / "1"), "--data", str(photos), *class_map]) == 0

    assert main(extract_words(tmp_path / "mapped", *class_map, data=str(photos), limit=None)) == 0
    assert main(train_words(tmp_path / "mapped", tmp_path / "named", "--method", "logit")) == 0
    assert "classes" not in capsys.readouterr().err.replace("classes: 10", "")
