import json
import sys
import time
from pathlib import Path

import pytest

from benchmarks import gpu_call
from benchmarks.__main__ import main
from benchmarks.gpu_call import PARTS, Call, Part


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "gpu_call", *words])
    return main()


def test_the_prepared_call_has_no_typo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command line of every part is parsed by the program it is for, at full and at toy size."""
    assert call(monkeypatch, "--dry") == 0
    shown = capsys.readouterr().out
    assert all(part.name in shown for part in PARTS)
    planted = Part("planted", 1, "benchmarks", ["teacher_pass", "--codek", "int8"])
    monkeypatch.setattr(gpu_call, "PARTS", [planted])
    with pytest.raises(SystemExit):
        call(monkeypatch, "--dry")


def test_a_lent_gpu_starts_with_what_fits_seven_minutes() -> None:
    assert len({part.name for part in PARTS}) == len(PARTS)
    assert 5 < sum(part.minutes for part in PARTS[:5]) <= 7


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Part]:
    """One that ends well, one that fails, one that hangs and one for which there is no time, run by a module here."""
    program = tmp_path / "toy_program.py"
    program.write_text(
        "import sys, time, pathlib\n"
        "what, out = sys.argv[1:]\n"
        "pathlib.Path(out, 'r.json').write_text('{\"value\": 7}')\n"
        "time.sleep(600 if what == 'hang' else 0)\n"
        "sys.exit(3 if what == 'fail' else 0)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    made = {"well": 0.5, "fail": 0.5, "hang": 0.03, "long": 50}
    return [Part(name, minutes, "toy_program", [name, "{out}"]) for name, minutes in made.items()]


def test_parts_end_at_their_deadlines_and_what_is_done_is_not_done_again(
    parts: list[Part], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = Call(tmp_path / "out", tmp_path / "scratch", minutes=_minutes_from_now(5), is_toy=False)
    assert one.run(parts) == 1
    found = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [(each["name"], each["ended"]) for each in found] == [
        ("well", "well"), ("fail", "with exit code 3"), ("hang", "at its deadline")
    ]  # fmt: skip
    assert all(each["files"] == {"r.json": {"value": 7}} for each in found)
    assert "not begun, for want of time: long" in capsys.readouterr().out
    # The folder of the second call is empty, as a lent machine leaves it.
    again = Call(tmp_path / "again", tmp_path / "scratch", minutes=_minutes_from_now(5), is_toy=False)
    again.run([parts[0], parts[1]])
    names = [json.loads(line)["name"] for line in (tmp_path / "again" / "results.jsonl").read_text().splitlines()]
    assert names == ["well", "fail", "hang", "fail"]
    assert len(list((tmp_path / "again").iterdir())) <= 8
    assert json.loads((tmp_path / "again" / "environment.json").read_text())["versions"]["torch"]


def test_results_get_the_names_of_the_results_folder(
    parts: list[Part], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Call(tmp_path / "out", tmp_path / "scratch", minutes=_minutes_from_now(5), is_toy=False).run(parts[:1])
    environment = {"device": "NVIDIA H100 80GB HBM3", "date": "2026-11-27"}
    (tmp_path / "out" / "environment.json").write_text(json.dumps(environment))
    assert call(monkeypatch, "--unpack", str(tmp_path / "out" / "results.jsonl"), "--out", str(tmp_path / "r")) == 0
    assert json.loads((tmp_path / "r" / "r_h100_202611.json").read_text()) == {"value": 7}


def _minutes_from_now(minutes: float) -> float:
    """A call's minutes count from the start of its process, which here is that of the tests."""
    return minutes + (time.monotonic() - gpu_call._STARTED) / 60
