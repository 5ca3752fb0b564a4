"""The two commands of the README, and what CI makes of them."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
DEMO = "pip install -e . && kdcache demo"
TESTS = "pip install -e '.[test]' && pytest"


def test_two_commands_come_first() -> None:
    blocks = (ROOT / "README.md").read_text().split("```")
    assert DEMO in blocks[1]
    assert TESTS in blocks[1]


def test_ci_runs_the_second_to_the_letter() -> None:
    assert TESTS in (ROOT / ".ci" / "run").read_text()


def test_every_folder_has_its_map() -> None:
    folders = {path.parent for path in (ROOT / "kdcache").rglob("__init__.py")} - {ROOT / "kdcache/cache/codecs"}
    assert [str(folder) for folder in folders if not (folder / "README.md").is_file()] == []
