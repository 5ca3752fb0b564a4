"""What is written in several places is the same in all: versions, floors, extras."""

import re
from pathlib import Path
from typing import Any

import yaml

import kdcache

ROOT = Path(__file__).parents[2]
SETUP = (ROOT / "setup.py").read_text()


def workflow() -> dict[str, Any]:
    return yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())


def floor(package: str) -> str:
    """The oldest version of a package that setup.py promises."""
    found = re.search(rf'"{package}>=([\d.]+)', SETUP)
    assert found is not None, package
    return found[1]


def test_the_citation_has_the_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert str(citation["version"]) == kdcache.__version__
    assert citation["license"] == "Apache-2.0"


def test_the_oldest_versions_promised_are_tested() -> None:
    oldest = next(
        job for job in workflow()["jobs"]["tests"]["strategy"]["matrix"]["include"] if job["name"] == "oldest"
    )
    tested = dict(pair.split("==") for pair in oldest["versions"].split())
    assert {name: version.removesuffix(".*") for name, version in tested.items()} == {
        name: floor(name) for name in ("torch", "triton", "timm", "numpy")
    }
    assert f'python_requires=">={oldest["python"]}"' in SETUP


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
