"""Every remedy has words, is used, and gets the details that its words name."""

import ast
from collections.abc import Iterator
from pathlib import Path
from string import Formatter

import pytest

from kdcache.cache.verify import Fault
from kdcache.cli.remedies import _WORDS, error_text, fault_line, remedy_text
from kdcache.errors import KdcacheError, Remedy

PACKAGE = Path(__file__).parents[2] / "kdcache"
# What a fault carries; fault_line hands it over.
OF_A_FAULT = {"group"}


def remedies_in(node: ast.AST) -> set[str]:
    """Names of the remedies that an expression mentions."""
    return {
        each.attr
        for each in ast.walk(node)
        if isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name) and each.value.id == "Remedy"
    }


def uses(source: str) -> Iterator[tuple[str, set[str]]]:
    """Each remedy that a module mentions, with the details given there.

    A remedy that is no ``remedy=`` of an error goes into a fault.
    """
    tree = ast.parse(source)
    for node in ast.walk(tree):
        given = {keyword.arg: keyword.value for keyword in node.keywords} if isinstance(node, ast.Call) else {}
        if "remedy" in given:
            for name in remedies_in(given["remedy"]):
                yield name, {str(field) for field in given} - {"remedy"}
            given["remedy"] = ast.Constant(None)
            node.keywords = [keyword for keyword in node.keywords if keyword.arg != "remedy"]
    for name in remedies_in(tree):
        yield name, OF_A_FAULT


def fields_of(remedy: Remedy) -> set[str]:
    return {field for _, field, _, _ in Formatter().parse(_WORDS[remedy]) if field is not None}


def below_cli() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path.relative_to(PACKAGE).parts[0] != "cli"]


@pytest.mark.parametrize("remedy", Remedy)
def test_every_remedy_has_words(remedy: Remedy) -> None:
    assert _WORDS[remedy].strip()
    assert not _WORDS[remedy].endswith(".")


def test_every_remedy_is_used() -> None:
    used = {name for path in below_cli() if path.name != "errors.py" for name, _ in uses(path.read_text())}
    assert used == {remedy.name for remedy in Remedy}


def test_every_use_gives_what_the_words_name() -> None:
    lacking = [
        f"{path.relative_to(PACKAGE)}: {name} lacks {field}"
        for path in below_cli()
        for name, given in uses(path.read_text())
        for field in sorted(fields_of(Remedy[name]) - given)
    ]
    assert lacking == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('raise E("x", remedy=Remedy.EXTRACT)', [("EXTRACT", set())]),
        ('raise E("x", remedy=Remedy.EXTRACT, path=p)', [("EXTRACT", {"path"})]),
        ("E('x', remedy=Remedy.A if odd else Remedy.B, tap=t)", [("A", {"tap"}), ("B", {"tap"})]),
        ('Fault("", "", "", "x", Remedy.EXTRACT)', [("EXTRACT", OF_A_FAULT)]),
        ("OWN = (Remedy.UPDATE,)", [("UPDATE", OF_A_FAULT)]),
    ],
)
def test_uses_are_found(source: str, found: list[tuple[str, set[str]]]) -> None:
    """Planted: the first and the fourth lack the path that the words of EXTRACT name."""
    assert sorted(uses(source), key=lambda use: use[0]) == found


def test_an_error_is_message_and_remedy_in_one_line() -> None:
    error = KdcacheError("caches/a: no such folder", remedy=Remedy.EXTRACT, path=Path("caches/a"))
    assert error_text(error) == ("caches/a: no such folder; make a cache with `kdcache extract --out caches/a`")


def test_a_message_of_several_lines_keeps_them() -> None:
    error = KdcacheError(
        "caches/a:", lines=["  views.seed: 1, wanted 2", "Nothing was changed."], remedy=Remedy.SAME_RUN
    )
    *before, last = error_text(error).splitlines()
    assert before == ["caches/a:", "  views.seed: 1, wanted 2", "Nothing was changed."]
    assert last.startswith("Use the same settings to resume (a finished run also takes more --epochs), or choose")


def test_an_error_without_a_remedy_is_its_message() -> None:
    assert error_text(KdcacheError("no more")) == "no more"


def test_details_are_not_parsed_as_words() -> None:
    """A path or tap with braces stays what it is."""
    assert "`kdcache extract --out a{b}`" in remedy_text(Remedy.EXTRACT, {"path": "a{b}"})


def test_a_fault_names_its_group() -> None:
    fault = Fault("", "manifest.json", "", "damaged", Remedy.REBUILD_OR_DELETE_GROUP, "cait")
    assert fault_line(fault) == (
        "cait/manifest.json: damaged; run `kdcache verify --rebuild --group cait`, or delete the "
        "folder cait and extract it again"
    )
