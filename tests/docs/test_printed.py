"""Commands printed in the documents are ones that kdcache takes, and printed outputs say when and where they came."""

import contextlib
import functools
import importlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdcache.cli.main import VERBS
from kdcache.cli.parser import verb_parser
from kdcache.cli.train_config import read_config

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "kdcache").rglob("*.md"))]
_BLOCK = re.compile(r"^```[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
# The beginning of a line, behind a prompt, variables, an installation or a launcher; anything else is prose.
_COMMAND = re.compile(
    r"(?:\$ )?(?:[A-Z_]+=\S* )*(?:(?:torchrun|srun) .*?|pip install .* && )?kdcache "
    rf"((?:{'|'.join(VERBS)})(?: .*)?)$"
)
_DATE = re.compile(r"20\d\d-\d\d-\d\d")
_MACHINE = re.compile(r"\b(cores?|CPUs?|H100|H200)\b")


def blocks(text: str) -> Iterator[str]:
    """Fenced blocks, with lines that a backslash continues made one."""
    for block in _BLOCK.findall(text):
        yield re.sub(r"\\\n\s*", "", block)


def is_output(line: str) -> bool:
    """Whether a line of a block that has `$` prompts is not a command."""
    return bool(line.strip()) and not line.startswith("$ ")


def commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for block in blocks(page.read_text(encoding="utf-8")):
            has_prompt = "\n$ " in f"\n{block}"
            lines = [line for line in block.splitlines() if not (has_prompt and is_output(line))]
            found += [(page.name, match[1]) for line in lines if (match := _COMMAND.match(line))]
    return found


COMMANDS = sorted(set(commands()))


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 60


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_a_printed_command_is_understood(page: str, command: str) -> None:
    """Verb, flags, the kinds of their values, and every setting of a run."""
    words = shlex.split(re.split(r"\s(?:&&|\|)\s|\s#", command)[0])
    verb, given = words[0], [word for word in words[1:] if word not in ("...", "…")]
    if len(given) < len(words) - 1:
        # Flags that the page printed before are left out.
        return
    parser = verb_parser(verb, importlib.import_module(f"kdcache.cli.{verb}"))
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
        arguments = parser.parse_args(given)
        if verb == "train":
            read_config(arguments)
    assert said.getvalue() == "", f"{page}: kdcache {command}"


def test_the_page_of_the_command_line_has_every_verb() -> None:
    """Sphinx runs what the page names, and prints it there."""
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    shown = re.findall(r"^```{command-output} python -m kdcache (\w+) --help$", page, re.MULTILINE)
    assert sorted(shown) == sorted(VERBS)


def sections(text: str) -> list[str]:
    """What stands below each heading, with the page's lead in front of it."""
    lead, *parts = re.split(r"^## ", text, flags=re.MULTILINE)
    return [lead, *(lead + part for part in parts)]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.parent.name in ("docs", ROOT.name)], ids=lambda p: p.name
)
def test_printed_output_has_its_date_and_machine(page: Path) -> None:
    """A section that shows what a command printed, or its page's lead, says when and on what."""
    undated = []
    for section in sections(page.read_text(encoding="utf-8")):
        printed = [b for b in blocks(section) if "$ " in b and any(is_output(line) for line in b.splitlines())]
        said = _BLOCK.sub("", section)
        if printed and not (_DATE.search(said) and _MACHINE.search(said)):
            undated.append(printed[-1].splitlines()[0])
    assert undated == []


# What a machine did in a time; sizes and counts are the same on all of them.
_SPEED = re.compile(r"\d (?:ms|µs|us|[kMG]B/s|(?:views|images|samples)/s)(?![\w/])")


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent.name == "docs"], ids=lambda page: page.name)
def test_a_measured_speed_has_its_date_and_machine(page: Path) -> None:
    """A section that names one in its text or a table, or its page's lead, says when and on what."""
    texts = [_BLOCK.sub("", section) for section in sections(page.read_text(encoding="utf-8"))]
    measured = [text for text in texts if _SPEED.search(text)]
    undated = [text for text in measured if not (_DATE.search(text) and _MACHINE.search(text))]
    assert [text.splitlines()[0] for text in undated] == []


# Flags of programs that the pages start beside kdcache.
OTHERS = {
    "--nproc-per-node",
    "--max-restarts",
    "--array",
    "--gpus",
    "--head",
    "--address",
    "--help",
    "--version",
    "--format",
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_flag_in_the_text_exists(page: Path) -> None:
    text = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    named = {flag for code in re.findall(r"`([^`\n]+)`", text) for flag in re.findall(r"(?<!\S)--[a-z][\w-]*", code)}
    known = {flag for verb in VERBS for flag in flags_of(verb)}
    assert named - known - OTHERS == set()


@functools.cache
def flags_of(verb: str) -> frozenset[str]:
    parser = verb_parser(verb, importlib.import_module(f"kdcache.cli.{verb}"))
    return frozenset(flag for action in parser._actions for flag in action.option_strings)
