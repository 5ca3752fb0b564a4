"""The lint finds planted faults, and none in the real kernels."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kdcache_kernels.device
import pytest
from kdcache_kernels.aot import Report, Resources
from kdcache_kernels.device.kernels import KERNELS
from kdcache_kernels.lint import faults_of, find_kernels

PLANTED = Path(__file__).with_name("planted.py")
CLEAN = Resources(
    registers=64,
    spill_bytes=0,
    stack_bytes=0,
    shared_bytes=1024,
    shared_limit_bytes=2048,
    matrix_instructions={"HGMMA": 4},
    wide_loads=8,
    ptxas=(12, 8),
)


def run_lint(*arguments: str, path: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a process that compiles, because kernels are interpreted in this one."""
    search = os.pathsep.join(filter(None, (str(path), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "kdcache_kernels.lint", *arguments]
    environment = {**os.environ, "TRITON_INTERPRET": "0", "PYTHONPATH": search}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """What the command printed about the planted kernels, and its rows by case."""
    folder = tmp_path_factory.mktemp("planted")
    shutil.copy(PLANTED, folder / "planted_kernels.py")
    result = run_lint("planted_kernels", "--json", str(folder / "out.json"), path=folder)
    assert (folder / "out.json").is_file(), result.stderr
    written = json.loads((folder / "out.json").read_text(encoding="utf-8"))
    return result, {row["name"]: row for row in written["cases"]}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("spilling", "registers; wanted none; take smaller tiles"),
        ("too much shared memory", "bytes of shared memory; wanted at most 232,448"),
        ("refilled while read", "a copy into a buffer that a product in flight still reads (triton#7110"),
        ("narrow loads", "wanted 16-byte loads and none of one or two bytes"),
        ("no products", "no matrix instruction; wanted HGMMA"),
        ("no code", "does not compile: "),
    ],
)
def test_a_planted_fault_is_found(planted: Any, name: str, found: str) -> None:
    result, rows = planted
    assert result.returncode == 1
    assert any(found in fault for fault in rows[name]["faults"]), rows[name]
    assert any(line.startswith(f"FAULT sm_90 {name}: ") and found in line for line in result.stdout.splitlines())


@pytest.mark.parametrize("name", ["clean products", "clean vector", "clean sums"])
def test_a_clean_kernel_has_no_fault(planted: Any, name: str) -> None:
    result, rows = planted
    assert rows[name]["faults"] == []
    assert rows[name]["resources"]["registers"] > 0
    assert f"FAULT sm_90 {name}" not in result.stdout


def test_products_are_hopper_products_with_wide_loads(planted: Any) -> None:
    used = planted[1]["clean products"]["resources"]
    assert used["matrix_instructions"].keys() == {"HGMMA"}
    assert used["wide_loads"] > 0
    assert used["small_loads"] == 0


@pytest.mark.slow
def test_only_strict_targets_decide_the_exit_status(tmp_path: Path) -> None:
    shutil.copy(PLANTED, tmp_path / "planted_kernels.py")
    result = run_lint("planted_kernels", "--filter", "no products", "--targets", "sm_80", path=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "note  sm_80 no products: no matrix instruction" in result.stdout
    assert "no target was strict" in result.stdout


@pytest.mark.slow
def test_some_real_kernels_pass_on_hopper(tmp_path: Path) -> None:
    """One of each kind, for time's sake; .ci/run lints them all, with two versions of Triton."""
    sample = "gram_sums bf16 192->768|gram_prepare 192|spectrum_fold4 192 levels 1|quantize_rows int8 D 192"
    out = tmp_path / "out.json"
    result = run_lint("--strict", "sm_90", "--filter", sample, "--json", str(out), path=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(json.loads(out.read_text(encoding="utf-8"))["cases"]) == 4


def test_no_kernel_escapes_the_lint() -> None:
    """Every device file that launches kernels offers them in its `Kernel`, each with a case."""
    files = Path(next(iter(kdcache_kernels.device.__path__))).glob("[a-z]*.py")
    launching = {
        file.stem for file in files if re.search(r"^\s+num_warps=|, num_warps=", file.read_text(encoding="utf-8"), re.M)
    }
    launching -= {"sizes"}  # makes cases for others
    assert {kernel.name for kernel in KERNELS} == launching
    assert {kernel.module.rpartition(".")[2] for kernel in KERNELS} == launching
    for kernel in KERNELS:
        source = Path(importlib.import_module(kernel.module).__file__ or "").read_text(encoding="utf-8")
        launched = set(re.findall(r"^\s+run\(\s*([a-z]\w+),", source, re.M))
        assert launched == {case.name.split()[0] for case in kernel.cases()}, kernel.name


def test_a_module_without_a_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match=r"kdcache_kernels\.device\.tile has no KERNEL"):
        find_kernels(["kdcache_kernels.device.tile"])


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, None),
        ({"spill_bytes": 4}, "4 bytes of spills"),
        ({"shared_bytes": 2049}, "2,049 bytes of shared memory"),
        ({"serialised": True}, "C7515"),
        ({"pipelined_register_operand": True}, "ptxas 12.8"),
        ({"pipelined_register_operand": True, "ptxas": (13, 3)}, None),
        ({"refilled_while_read": True}, "triton#7110"),
        ({"matrix_instructions": {}}, "no matrix instruction"),
        ({"wide_loads": 0}, "0 loads of 16 bytes"),
        ({"small_loads": 1}, "1 of one or two"),
    ],
    ids=str,
)
def test_each_fault_is_named_alone(changes: dict[str, Any], found: str | None) -> None:
    used = Resources(**{**vars(CLEAN), **changes})
    report = Report(
        target="sm_90", module="m", name="n", num_warps=4, num_stages=2, has_products=True, narrow_loads="",
        seconds=0.0, resources=used, error=None,
    )  # fmt: skip
    faults = [str(fault) for fault in faults_of(report)]
    assert len(faults) == (found is not None)
    assert found is None or found in faults[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--targets", "sm_70"), "unknown target sm_70"), (("--strict", "gfx942"), "gfx942 is not among --targets sm_90")],
)
def test_wrong_targets_are_refused(arguments: tuple[str, ...], message: str, capsys: Any) -> None:
    from kdcache_kernels.lint import main

    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
