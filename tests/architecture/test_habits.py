"""What is written in several places is the same in all: versions, floors, extras."""

import ast
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement

import kdcache

ROOT = Path(__file__).parents[2]
SETUP = (ROOT / "setup.py").read_text()


def workflow() -> dict[str, Any]:
    return yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())


def test_the_citation_has_the_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert str(citation["version"]) == kdcache.__version__
    assert citation["license"] == "Apache-2.0"


def test_the_oldest_versions_promised_are_tested() -> None:
    tests = workflow()["jobs"]["tests"]
    oldest = next(job for job in tests["strategy"]["matrix"]["include"] if job["name"] == "oldest")
    assert f'python_requires=">={oldest["python"]}"' in SETUP
    assert any("${{ matrix.constraints }} >" in step.get("run", "") for step in tests["steps"])
    printed = subprocess.run([ROOT / oldest["constraints"]], capture_output=True, text=True, check=True).stdout
    assert set(printed.split()) == {f"{name}=={version}" for name, version in floors().items()}


def floors() -> dict[str, str]:
    """The oldest version of each package that setup.py names."""
    strings = [node.value for node in ast.walk(ast.parse(SETUP)) if isinstance(node, ast.Constant)]
    named = [Requirement(each) for each in strings if re.match(r"[a-z].*>=\d", str(each))]
    found = {each.name: next(iter(each.specifier)).version for each in named}
    assert found.keys() > {"torch", "triton", "timm", "numpy", "moto", "ray"}
    return found


def test_names_newer_than_the_oldest_python_come_from_typing_extensions() -> None:
    """pyright reads NumPy's annotations, which need Python 3.11, and cannot see it."""
    newer = {
        "Self",
        "Never",
        "Required",
        "NotRequired",
        "LiteralString",
        "Unpack",
        "assert_never",
        "override",
        "TypeIs",
    }
    folders = ("kdcache", "kernels", "tests", "benchmarks", "examples")
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for line in path.read_text().splitlines():
            names = re.match(r"\s*from typing import (.+)", line)
            assert names is None or not newer & set(re.findall(r"\w+", names[1])), f"{path}: {line}"


def test_hooks_check_with_the_ruff_of_the_tests() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    (ruff,) = [each for each in hooks["repos"] if "ruff" in each["repo"]]
    assert f'"ruff=={ruff["rev"].removeprefix("v")}"' in SETUP


def test_steps_of_the_workflow_name_extras_that_exist() -> None:
    named = set(re.findall(r"\[(\w+)\]'", (ROOT / ".github" / "workflows" / "ci.yml").read_text()))
    assert [name for name in named if f'"{name}": [' not in SETUP] == []


def test_the_changelog_is_of_this_version() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased" or headings[0].startswith(kdcache.__version__)


def test_a_folder_with_slow_tests_has_quick_ones_too() -> None:
    slow, quick = set(), set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        tree = ast.parse(path.read_text())
        whole_file = "pytestmark = pytest.mark.slow" in map(ast.unparse, tree.body)
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                is_slow = whole_file or "pytest.mark.slow" in map(ast.unparse, node.decorator_list)
                (slow if is_slow else quick).add(path.parent)
    assert slow
    assert slow <= quick
