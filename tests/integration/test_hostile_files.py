"""Files of strangers that try to run code: each would create a file if it were unpickled, and none may."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from kdcache.durable import sha256_file
from kdcache.errors import RunMismatchError
from kdcache.strict_json import dump_sealed, load_sealed
from kdcache.teacher.extract import extract
from kdcache.teacher.model import Teacher
from kdcache.train import train
from kdcache.train.checkpoint import Checkpoints
from tests.cli.support import extract_words, fails, without
from tests.conftest import GROUP, STUDENT_KWARGS, TEACHER, tiny_extract
from tests.export.support import finished
from tests.train.support import tiny_run


class Trap:
    """Unpickled without care it creates a file."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Path]]:
        return Path.touch, (self.sprung,)


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A checkpoint with a trap; the file that it would create is ``sprung`` beside it."""
    state = {"head.weight": torch.zeros(1)}
    torch.save({"state_dict": state, "args": Trap(tmp_path / "sprung")}, tmp_path / "trap.pth")
    torch.load(tmp_path / "trap.pth", weights_only=False)
    (tmp_path / "sprung").unlink()  # it works: otherwise the tests below could not fail
    return tmp_path / "trap.pth"


@pytest.fixture(scope="session")
def hostile_run(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tiny_root, tmp_path_factory.mktemp("hostile") / "run")


def sprung(trap: Path) -> bool:
    return (trap.parent / "sprung").exists()


def loading_arguments(trap: Path) -> list[dict[str, Any]]:
    """What could make timm load the file."""
    return [
        {"checkpoint_path": str(trap)},
        {"pretrained": True, "pretrained_cfg": {"file": str(trap)}},
        {"pretrained_cfg_overlay": {"file": str(trap), "custom_load": True}},
    ]


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("verb", ["eval", "export", "analyze"])
def test_a_run_folder(
    hostile_run: Path, trap: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str, number: int
) -> None:
    run = Path(shutil.copytree(hostile_run, tmp_path / "run"))
    facts = load_sealed((run / "student.json").read_bytes(), where="test")
    facts["student"]["kwargs"] |= loading_arguments(trap)[number]
    (run / "student.json").write_bytes(dump_sealed(facts))
    rest = {
        "eval": ["--data", "digits:test"],
        "export": ["--out", str(tmp_path / "out")],
        "analyze": ["--run", str(run), "--data", "digits:test", "--out", str(tmp_path / "out")],
    }
    message = fails(capsys, [verb, *([str(run)] if verb != "analyze" else []), *rest[verb]])
    assert "student.json: " in message and "is not one of the architecture" in message
    assert not sprung(trap)


@pytest.mark.parametrize("name", ["local-dir:{folder}", "hf-hub:some/model", "{folder}/trap.pth"])
def test_a_model_name_in_a_run_folder(
    hostile_run: Path, trap: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    run = Path(shutil.copytree(hostile_run, tmp_path / "run"))
    config = {"architecture": TEACHER, "model_args": {"checkpoint_path": str(trap)}, "pretrained_cfg": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    facts = load_sealed((run / "student.json").read_bytes(), where="test")
    facts["student"]["name"] = name.format(folder=tmp_path)
    (run / "student.json").write_bytes(dump_sealed(facts))
    assert "student.json: " in (message := fails(capsys, ["eval", str(run), "--data", "digits:test"]))
    assert "sha256" not in message, "whoever writes the file writes its hash as well"
    assert not sprung(trap)


@pytest.mark.parametrize("number", range(3))
def test_a_cache(
    trap: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Consistent to the last byte, so that nothing but the arguments gives it away."""
    init = Teacher.__init__

    def forged(self: Teacher, *words: Any, **settings: Any) -> None:
        init(self, *words, **settings)
        kwargs = {**self.facts.kwargs, **loading_arguments(trap)[number]}
        self.facts = msgspec.structs.replace(self.facts, kwargs=kwargs, weights="hub")

    with monkeypatch.context() as patch:
        patch.setattr(Teacher, "__init__", forged)
        extract(tiny_extract(tmp_path / "cache", limit=4, views=1, taps=("head/logits",)))
    message = fails(capsys, ["verify", str(tmp_path / "cache"), "--rerun-teacher", "1"])
    assert f"{GROUP}/manifest.json" in message and "is not one of the architecture" in message
    assert not sprung(trap)


def test_weights_of_a_teacher(trap: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = fails(
        capsys, [*without(extract_words(tmp_path / "out"), "--teacher-weights"), "--teacher-weights", str(trap)]
    )
    assert "trap.pth" in message
    assert not sprung(trap)


def test_weights_of_a_student(tiny_root: Path, trap: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kwargs = [f"{name}={value}" for name, value in STUDENT_KWARGS.items()]
    words = ["train", "--cache", str(tiny_root), "--student", TEACHER, "--student-kwargs", *kwargs, "--method", "none"]
    message = fails(capsys, [*words, "--student-weights", str(trap), "--out", str(tmp_path / "run")])
    assert "trap.pth" in message
    assert not sprung(trap)


def test_a_checkpoint_of_a_run(
    hostile_run: Path, tiny_root: Path, trap: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the right hash beside it: whoever can write one can write the other."""
    run = Path(shutil.copytree(hostile_run, tmp_path / "run"))
    (run / "summary.json").unlink()
    for path in Checkpoints(run, keep=2).paths():
        shutil.copyfile(trap, path)
        path.with_suffix(".sha256").write_text(sha256_file(path))
    with pytest.raises(RunMismatchError, match="checkpoints"):
        train(tiny_root, run, tiny_run("epochs=1"))
    assert not sprung(trap)
