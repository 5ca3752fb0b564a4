"""No module below the command line mentions a flag or a verb; each rule catches a planted violation."""

import ast
import re
from pathlib import Path

import pytest

from kdcache.cli.main import VERBS

PACKAGE = Path(__file__).parents[2] / "kdcache"
# A CSS custom property, var(--name), looks like a flag and is none.
FLAG = re.compile(r"(?<!var\()(?<![\w-])--[a-z][a-z-]+")
COMMAND = re.compile(rf"`kdcache [a-z]+|\bkdcache ({'|'.join(VERBS)})\b")
# Docstrings of published recipes give the commands that make their caches and run them.
ALLOWED = tuple(
    f"recipes/{paper}.py" for paper in ("encoding_mismatch", "distillation_dynamics", "spectralkd", "compression")
)


def mentions(source: str) -> list[str]:
    """Every flag and command in the string constants of a module, docstrings included."""
    texts = [
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    return [found.group() for text in texts for rule in (FLAG, COMMAND) for found in rule.finditer(text)]


def below_cli() -> list[Path]:
    paths = [path.relative_to(PACKAGE) for path in sorted(PACKAGE.rglob("*.py"))]
    return [path for path in paths if path.parts[0] != "cli"]


def test_nothing_below_cli_mentions_a_flag_or_a_command() -> None:
    files = [path for path in below_cli() if path.as_posix() not in ALLOWED]
    assert len(files) > 100
    found = {path.as_posix(): mentions((PACKAGE / path).read_text()) for path in files}
    assert {path: words for path, words in found.items() if words} == {}


@pytest.mark.parametrize("path", ALLOWED)
def test_the_allowed_mention_commands_in_docstrings_only(path: str) -> None:
    """An entry that is not needed any more goes."""
    source = (PACKAGE / path).read_text()
    tree = ast.parse(source)
    holders = [tree, *(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))]
    docs = "\n".join(ast.get_docstring(node, clean=False) or "" for node in holders)
    assert mentions(source)
    assert sorted(mentions(source)) == sorted(mentions(repr(docs)))


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('raise UsageError(f"--tap {tap}: unknown")', "--tap"),
        ('"give another folder (--out)"', "--out"),
        ('"choose fewer `--views`"', "--views"),
        ('"""Take what stands behind ``--data``."""', "--data"),
        ('def f():\n    """As `kdcache bench` does."""', "`kdcache bench"),
        ('"run kdcache verify"', "kdcache verify"),
        ('"read the " "records (" "--images 0)"', "--images"),
    ],
)
def test_planted_mentions_are_caught(source: str, found: str) -> None:
    assert found in mentions(source)


@pytest.mark.parametrize(
    "source",
    [
        "# argparse hands over --tap here",
        'style = ("-", "--", "-.")',
        'colour = f"var(--data-{number})"',
        '"this kdcache reads format 2"',
        "from kdcache import train",
    ],
)
def test_what_is_no_mention_passes(source: str) -> None:
    assert mentions(source) == []
