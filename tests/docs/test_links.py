"""Every relative link of every document leads to a file, and to a heading of it where it names one."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_LINK = re.compile(r"(?<!`)\[[^\]]*\]\(([^)\s]+)\)")


def documents() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=False)
    found = listed.stdout.split() or [str(path.relative_to(ROOT)) for path in ROOT.rglob("*.md")]
    return [name for name in found if not name.startswith("benchmarks/results/")]


def headings(text: str) -> set[str]:
    """Anchors as GitHub and the site make them of headings."""
    lines = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).strip().replace(" ", "-") for line in lines}


@pytest.mark.parametrize("name", documents())
def test_links_lead_somewhere(name: str) -> None:
    path = ROOT / name
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    broken = [link for link in _LINK.findall(text) if not re.match(r"[a-z]+:", link) and not leads(path, link)]
    assert broken == []


def leads(path: Path, link: str) -> bool:
    """Whether a link of a document leads to a file of the repository, and to a heading where it names one."""
    target, _, anchor = link.partition("#")
    found = (path.parent / target).resolve() if target else path
    if not found.exists() or not found.is_relative_to(ROOT):
        return False
    return not anchor or anchor in headings(found.read_text(encoding="utf-8"))


def test_every_page_is_part_of_the_site() -> None:
    """Sphinx refuses pages in no table of contents, and links to pages that are not there: `sphinx-build -W`."""
    folders = ("docs/", "kdcache/", "kernels/", "benchmarks/", "examples/")
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    pages = {name for name in listed.stdout.split() if name.startswith(folders)} - {"docs/index.md"}
    entries = {
        (path.parent / re.sub(r".*<(.+)>", r"\1", entry)).resolve()
        for path in (ROOT / "docs").glob("*.md")
        for tree in re.findall(r"^```{toctree}\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)
        for entry in re.findall(r"^[^:\s].*", tree, re.MULTILINE)
    }
    assert {name for name in pages if (ROOT / name).with_suffix("").resolve() not in entries} == set()
