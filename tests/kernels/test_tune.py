"""Tables are made from the first clean or the fastest candidate, and keep what was not asked about."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kdcache_kernels import dispatch, tune
from kdcache_kernels.checked import is_checked, stamped
from kdcache_kernels.device.kernels import KERNELS
from kdcache_kernels.lint import Fault
from kdcache_kernels.tune import Trial, choose_fastest, choose_first_clean, chosen_kernels, main, merge

SHIPPED = sorted(path.stem for path in (Path(dispatch.__file__).parent / "tables").glob("*.json"))
SLOW = Fault(found="spills", wanted="none", remedy="smaller tiles")
WRONG = Fault(found="hazard", wanted="none", remedy="one stage", breaks=True)
TOY = """
import triton
import triton.language as tl
from kdcache_kernels.device.case import Case
from kdcache_kernels.device.kernel import Kernel

@triton.jit
def toy(values, out, SIZE: tl.constexpr):
    each = tl.arange(0, SIZE)
    x = tl.load(values + each)
    tl.store(out + each, x / tl.sum(x))

def candidates(width):
    return [{"size": 16384}, {"size": 16 * width}, {"size": width}]

def case(width, settings):
    return [Case(name=f"toy {settings}", kernel=toy, types={"values": "*fp32", "out": "*fp32"},
                 constants={"SIZE": settings["size"]}, num_warps=1, num_stages=1, has_products=False)]

def timing(width, settings, device):
    raise AssertionError("nothing is timed without a GPU")

KERNEL = Kernel(name="toy", launch=toy, widths={"64": 64}, candidates=candidates, case=case,
                cases=lambda: case(64, {"size": 64}), timing=timing)
"""


def trials(*faults: list[Fault]) -> Any:
    for number, found in enumerate(faults):
        yield Trial({"number": number}, found)


def test_the_first_clean_candidate_is_chosen_and_no_later_one_compiled() -> None:
    def until_clean() -> Any:
        yield from trials([SLOW], [WRONG], [])
        raise AssertionError("a candidate after the first clean one was tried")

    assert choose_first_clean(until_clean()) == {"number": 2}
    assert choose_first_clean(trials([SLOW], [WRONG])) is None


def test_the_fastest_candidate_that_is_right_is_chosen() -> None:
    times = {0: 3.0, 1: 2.0, 3: 4.0}

    def time_ms(settings: Any) -> float:
        return times[settings["number"]]

    assert choose_fastest(trials([], [SLOW], [WRONG], []), time_ms) == {"number": 1}
    assert choose_fastest(trials([WRONG]), time_ms) is None


def test_a_candidate_that_does_not_run_costs_only_itself() -> None:
    def time_ms(settings: Any) -> float:
        if settings["number"] == 0:
            raise RuntimeError("out of resource: shared memory")
        return 1.0

    assert choose_fastest(trials([], []), time_ms) == {"number": 1}
    assert choose_fastest(trials([]), time_ms) is None


def test_what_was_decided_survives_a_run_that_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two kernels, the second of which fails: the first one's rows are in the file."""

    def fails(width: int) -> Any:
        raise KeyboardInterrupt

    first, second = KERNELS[0], replace(KERNELS[1], candidates=fails, interpreted=None)
    monkeypatch.setattr(tune, "chosen_kernels", lambda modules, pattern: [first, second])
    out = tmp_path / "table.json"
    with pytest.raises(KeyboardInterrupt):
        main(["--arch", "interpreter", "--out", str(out)])
    assert json.loads(out.read_text(encoding="utf-8"))["kernels"].keys() == {first.name}


def test_other_kernels_keep_their_rows() -> None:
    old = {"timed_on": "H100", "kernels": {"gram": {"192": {"tile": 64}}, "toy": {"64": {"size": 1}}}}
    new = merge(old, {"toy": {"128": {"size": 2}}}, "me", "interpreter", "H100")
    assert new["kernels"] == {"gram": {"192": {"tile": 64}}, "toy": {"128": {"size": 2}}}
    assert new["timed_on"] == "H100"
    assert new["versions"].keys() == {"torch", "triton", "ptxas"}
    assert len(new["date"]) == 10


def test_a_table_counts_as_timed_only_if_all_of_it_was() -> None:
    untimed = {"timed_on": None, "kernels": {"gram": {"192": {"tile": 64}}}}
    assert merge(untimed, {"toy": {}}, "me", "interpreter", "H100")["timed_on"] is None
    assert merge(untimed, {"gram": {}}, "me", "interpreter", "H100")["timed_on"] == "H100"
    timed = {**untimed, "timed_on": "H100"}
    assert merge(timed, {"toy": {}}, "me", "interpreter", None)["timed_on"] is None


@pytest.mark.slow
def test_a_toy_is_tuned_without_a_gpu(tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(TOY, encoding="utf-8")
    table = tmp_path / "table.json"
    table.write_text(json.dumps({"kernels": {"gram": {"192": {"tile": 64}}}}), encoding="utf-8")
    search = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "TRITON_INTERPRET": "0", "PYTHONPATH": search, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "kdcache_kernels.tune", "toy", "--arch", "sm_90", "--out", str(table)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    written = json.loads(table.read_text(encoding="utf-8"))
    assert written["kernels"] == {"gram": {"192": {"tile": 64}}, "toy": {"64": {"size": 1024}}}
    assert written["timed_on"] is None
    assert written["made_by"] == "python -m kdcache_kernels.tune --arch sm_90"
    assert all(part.isdecimal() for part in written["versions"]["ptxas"].split("."))
    assert "bytes of spills" in result.stdout
    assert "nothing was timed" in result.stdout


def test_the_interpreter_gets_the_first_candidate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy_interpreted.py").write_text(TOY, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    out = tmp_path / "table.json"
    assert main(["toy_interpreted", "--arch", "interpreter", "--out", str(out)]) == 0
    written = json.loads(out.read_text(encoding="utf-8"))
    assert written["kernels"] == {"toy": {"*": {"size": 16384}}}
    assert written["versions"]["ptxas"] is None


def test_an_unknown_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="'nothing'; there are cosine_factors"):
        chosen_kernels([], "nothing")


def test_an_interpreted_process_is_told_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(SystemExit) as stopped:
        main(["--arch", "sm_90"])
    assert stopped.value.code == 2
    assert "TRITON_INTERPRET=0" in capsys.readouterr().err


def test_what_was_checked_stays_with_the_rows_it_was_checked_with() -> None:
    old = stamped(
        {"timed_on": None, "kernels": {"gram": {"192": {"tile": 64}}, "toy": {"64": {"size": 1}}}}, "H100, today"
    )
    new = merge(old, {"toy": {"64": {"size": 2}}}, "me", "interpreter", None)
    assert new["checked_on"] == "H100, today"
    assert is_checked(new, "gram")
    assert not is_checked(new, "toy")
    assert "checked_on" not in {name for name, value in merge({}, {}, "me", "interpreter", None).items() if value}


def test_a_check_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune.aot, "require_compiler", lambda: None)
    out = tmp_path / "table.json"
    out.write_text(json.dumps({"kernels": {"gram": {"192": {"tile": 64}}}}), encoding="utf-8")
    assert main(["--arch", "sm_90", "--out", str(out), "--checked-on", "H100, today"]) == 0
    written = json.loads(out.read_text(encoding="utf-8"))
    assert written["checked_on"] == "H100, today"
    assert is_checked(written, "gram")
    assert "1 kernels checked on H100, today" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--arch", "sm_90", "--out", str(tmp_path / "none.json"), "--checked-on", "H100, today"])


@pytest.mark.parametrize("arch", SHIPPED)
def test_shipped_tables_hold_rows_that_the_kernels_know(arch: str) -> None:
    table = dispatch.read_table(arch)
    for kernel in KERNELS:
        if arch == dispatch.INTERPRETER:
            assert table[kernel.name] == {"*": kernel.interpreted or kernel.candidates(1024)[0]}
            continue
        assert table[kernel.name].keys() <= kernel.widths.keys()
        for row, settings in table[kernel.name].items():
            if settings.get("form") == "torch":
                continue
            names = {frozenset(each) for each in kernel.candidates(kernel.widths[row])}
            assert frozenset(settings) - {"form"} in names
    assert table.keys() == {kernel.name for kernel in KERNELS}
