import argparse
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from kdcache.cli import extract, plan
from kdcache.cli.main import main
from kdcache.strict_json import load_json
from tests.cli.support import fails
from tests.conftest import STUDENT_KWARGS, TEACHER, TEACHER_KWARGS

WORDS = [
    "plan", "--teacher", TEACHER, "--teacher-kwargs", *(f"{name}={value}" for name, value in TEACHER_KWARGS.items()),
    "--student", TEACHER, "--student-kwargs", *(f"{name}={value}" for name, value in STUDENT_KWARGS.items()),
    "--student-batch-size", "4", "--seconds", "0.05",
]  # fmt: skip


def parsed(module: object, words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return parser.parse_args(words)


def test_from_images_to_a_verdict_and_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What it tells to run runs, and writes as many bytes as were planned."""
    words = [*WORDS, "--data", "digits:train", "--limit", "40", "--views", "2", "--teacher-weights", "random"]
    words += ["--tap", "blocks.-1/prefix:int8", "--tap", "head/logits", "--disk", str(tmp_path), "--epochs", "100000"]
    assert main([*words, "--json", str(tmp_path / "plan.json")]) == 0
    shown = capsys.readouterr().out.splitlines()
    facts = load_json((tmp_path / "plan.json").read_bytes(), where="plan")
    assert shown[-2] == facts["verdict"]["text"]
    assert shown[-2].startswith("cache: it pays after")
    assert shown[-1] == facts["command"]
    assert main(shlex.split(shown[-1])[1:]) == 0
    out = tmp_path / "vit-tiny-patch16-224"
    column = facts["sizes"]["columns"]["vit-tiny-patch16-224/blocks-1-prefix-int8"]
    assert sum(path.stat().st_size for path in out.glob("*/blocks-1-prefix-int8/*.tar")) == pytest.approx(
        column, rel=0.01
    )


def test_no_command_where_it_does_not_pay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdcache.planning.plan._NUM_PICTURES", 8)
    words = [*WORDS, "--images", "1000000000000", "--tap", "head/logits", "--disk", str(tmp_path)]
    assert main(words) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("do not cache: it takes")
    assert last.endswith("GB are free")


def test_the_command_is_the_pass_that_was_planned() -> None:
    words = [
        "--data", "a b.tar", "c.tar", "--teacher", "deit_tiny", "--tap", "blocks.-1/patch:int8", "--tap", "head/logits",
        "--views", "4", "--pixels", "raw", "--image-timeout", "7", "--teacher-kwargs", "x=1", "y=z", "--seed", "3",
        "--reference-images", "--epochs", "9", "--disk", "/data", "--class-map", "names.txt", "--batch-size", "8",
    ]  # fmt: skip
    planned = parsed(plan, words)
    found = shlex.split(plan.extract_command(vars(planned), "deit-tiny"))
    assert found[:2] == ["kdcache", "extract"]
    told = vars(parsed(extract, found[2:]))
    assert (told["data"], told["images"], told["out"]) == ("a b.tar::c.tar", "reference", Path("/data/deit-tiny"))
    assert told["view_recipe"] == "rrc-flip"
    shared = {name for name in vars(planned) if name in told} - {"json", "data"}
    assert {name: told[name] for name in shared} == {name: vars(planned)[name] for name in shared}
    assert {"taps", "views", "pixels", "image_timeout_s", "teacher_kwargs", "class_map", "batch_size"} <= shared


def test_every_setting_of_a_pass_goes_into_the_command() -> None:
    """A flag that is not of the plan alone is one of the extraction."""
    own = {*plan._OWN, *plan._OWN_HOW}
    names = {field for field in vars(parsed(plan, [])) if field not in own}
    from kdcache.teacher.config import ExtractConfig

    assert names <= {field.name for field in fields(ExtractConfig)}


def test_no_other_file_is_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words, path = [*WORDS, "--data", "digits:train", "--json"], tmp_path / "manifest.json"
    for data in (b"{}", b"", b"[1]", b"{"):
        path.write_bytes(data)
        assert "is no plan" in fails(capsys, [*words, str(path)], 2)
        assert path.read_bytes() == data
    assert "there is no folder" in fails(capsys, [*words, str(tmp_path / "away" / "plan.json")], 2)
    assert "is no plan" in fails(capsys, [*words, str(make_folder(tmp_path / "folder.json"))], 2)


def make_folder(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--data", "digits:test", "--teacher", "vit_tinny_patch16_224"], 1, "vit_tiny_patch16_224"),
        (["--data", "digits:test", "--teacher", TEACHER, "--student", "no_such_student"], 1, "no_such_student"),
        (["--data", "digits:test", "--teacher", TEACHER, "--tap", "blocks.99/patch"], 1, "blocks"),
        (["--data", "digits:test", "--teacher", TEACHER, "--tap", "blocks.-1/patch:zip"], 2, "zip"),
        (["--teacher", TEACHER], 2, "--images with the number"),
        (["--images", "0", "--teacher", TEACHER], 2, "at least 1"),
        (["--images", "9", "--limit", "4", "--teacher", TEACHER], 2, "--limit would be ignored: give --data"),
        (["--data", "digits", "--image-kb", "4", "--teacher", TEACHER], 2, "--image-kb would be ignored"),
        (["--data", "digits"], 2, "a teacher"),
        (["--data", "digits", "--teacher", TEACHER, "--disk", "/no/such"], 2, "/no/such: is not a folder"),
        (["--data", "/no/such", "--teacher", TEACHER], 1, "/no/such"),
        (["--data", "digits", "--teacher", TEACHER, "--seconds", "0"], 2, "above 0"),
        (["--data", "digits", "--teacher", TEACHER, "--json", "a.txt"], 2, "ends in .json"),
        (["--data", "digits", "--teacher", TEACHER, "--pixels", "png"], 2, "raw"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else None,
)
def test_every_mistake_has_one_message(
    words: list[str], code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert text in fails(capsys, ["plan", *words], code)
