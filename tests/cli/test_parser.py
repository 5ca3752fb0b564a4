"""A flag given twice adds up or is refused, whichever verb it is of: walked over all of them."""

import argparse
import importlib
from pathlib import Path

import pytest

from kdcache.cli.main import VERBS, main
from kdcache.cli.parser import StoreOnce, output_file, refuse_ignored, verb_parser
from kdcache.errors import UsageError
from tests.cli.support import fails

WORDS = {int: ("3", "4"), float: ("0.25", "0.5"), Path: ("x", "y"), None: ("x", "y")}


def parser_of(verb: str) -> argparse.ArgumentParser:
    return verb_parser(verb, importlib.import_module(f"kdcache.cli.{verb}"))


def flags() -> list[tuple[str, str]]:
    return [
        (verb, action.option_strings[0])
        for verb in VERBS
        for action in parser_of(verb)._actions
        if action.option_strings
    ]


@pytest.mark.parametrize(("verb", "flag"), flags())
def test_no_flag_loses_its_first_value(verb: str, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = parser_of(verb)
    [action] = [each for each in parser._actions if flag in each.option_strings]
    if action.nargs == 0:
        return
    kind = action.type if action.type in WORDS else None
    first, second = map(str, list(action.choices or ())[:2] or WORDS[kind])
    if kind is None and not action.choices:
        # A file to write has an ending.
        first, second = (text + Path(str(action.metavar)).suffix for text in (first, second))
    for each in parser._actions:
        each.required = False
    words = [flag, first, flag, second]
    if isinstance(action, StoreOnce):
        with pytest.raises(SystemExit):
            parser.parse_args(words)
        assert f"argument {flag}: given twice, {first} and {second}; give it once" in capsys.readouterr().err
    else:
        kept = getattr(parser.parse_args(words), action.dest)
        assert kept in ([first, second], f"{first}::{second}")


def test_the_same_value_twice_loses_nothing() -> None:
    arguments = parser_of("verify").parse_args(["c", "--group", "g", "--group", "g"])
    assert arguments.group == "g"


def test_every_flag_is_walked() -> None:
    """The walk must not pass because it finds nothing."""
    walked = flags()
    assert ("train", "--cache") in walked
    assert ("extract", "--data") in walked
    assert len(walked) > 100


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["extract", "--data", "digits", "--out", "c", "--teacher", "a", "--teacher", "b"], "--teacher: given twice"),
        (
            ["extract", "--data", "digits", "--teacher", "a", "--out", "c", "--teacher-kwargs", "depth=1",
             "--teacher-kwargs", "depth=2"],
            "depth is given twice",
        ),
        (
            ["train", "--cache", "c", "--out", "r", "--student", "s", "--method", "logit", "--set", "epochs=1",
             "--epochs", "2", "--set", "epochs=3"],
            "epochs is given twice, 1 and 3",
        ),
    ],
    ids=["flag", "pair", "setting"],
)  # fmt: skip
def test_what_would_be_lost_is_refused(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert message in fails(capsys, words, code=2)


def test_pairs_add_up(capsys: pytest.CaptureFixture[str]) -> None:
    parsed = parser_of("extract").parse_args(
        ["--out", "c", "--teacher-kwargs", "a=1", "b=2", "--teacher-kwargs", "c=3"]
    )
    assert parsed.teacher_kwargs == ["a=1", "b=2", "c=3"]


def test_help_is_there_for_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in VERBS:
        with pytest.raises(SystemExit) as leave:
            main([verb, "--help"])
        assert leave.value.code == 0
    assert "usage: kdcache extract" in capsys.readouterr().out


def test_a_file_to_write_has_the_ending_of_its_kind() -> None:
    """A picture in place of somebody's weights would be a loss."""
    assert output_file(".html", ".htm")("page.HTM") == Path("page.HTM")
    with pytest.raises(argparse.ArgumentTypeError, match=r"ends in .html or .htm, got 'weights.pth'"):
        output_file(".html", ".htm")("weights.pth")


def test_a_flag_that_would_be_ignored_is_refused() -> None:
    refuse_ignored({"--data": "d"}, without="--picture", given=Path("p.png"))
    refuse_ignored({"--data": None}, without="--picture", given=None)
    with pytest.raises(UsageError, match="--data would be ignored: give --picture as well"):
        refuse_ignored({"--data": "d", "--key": None}, without="--picture", given=None)
