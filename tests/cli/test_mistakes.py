"""Every flag of every verb with values that somebody types by mistake: one message, no traceback, no work begun."""

import importlib
from pathlib import Path
from typing import Any

import pytest

from kdcache.cli.main import VERBS, main
from kdcache.cli.parser import verb_parser
from kdcache.errors import KdcacheError
from tests.conftest import TEACHER

# What would be begun with a mistake that nobody noticed, by verb.
WORK = {
    "demo": ["kdcache.cli.demo._teacher"],
    "plan": ["kdcache.planning.plan.rehearse"],
    "extract": ["kdcache.teacher.begin.Teacher"],
    "convert": ["kdcache.convert.codec.open_cache", "kdcache.convert.to_hdf5.open_cache"],
    "verify": ["kdcache.cache.cache.open_cache"],
    "show": ["kdcache.cache.cache.open_cache"],
    "bench": ["kdcache.cache.cache.open_cache"],
    "train": ["kdcache.train.loop.train"],
    "sweep": ["kdcache.cache.cache.open_cache", "kdcache.train.loop.train"],
    "eval": ["kdcache.train.kept_weights.weights_name"],
    "export": ["kdcache.export.export_student"],
    "analyze": ["kdcache.cache.cache.open_cache"],
    "report": [],
}
NUMBERS = ["abc", "", "nan", "-1", "1.5", "[1,2]", "1e400"]
FRACTIONS = ["abc", "", "nan", "-1", "[1,2]", "inf"]
TEXTS = ["", " ", "\x1b[31mred", "no such thing", "a=b=c", "[1, 2", "\udcff"]

# No number of anything, whatever the flag; texts may be anything.
NEVER_RIGHT = ("nan", "inf", "1e400", "-1")
# Seeds are any number, and a view or an image that is not there is found in the cache.
ANY_NUMBER = ("--seed", "--per-class-seed")


class Reached(KdcacheError):
    """The work would begin."""


def base_words(verb: str, cache: Path, folder: Path) -> list[str]:
    """A command of a verb that is right, but for what a test adds."""
    out = str(folder / "out")
    return {
        "demo": ["--out", out],
        "plan": ["--data", "digits:train", "--teacher", TEACHER, "--disk", str(folder)],
        "extract": ["--data", "digits:train", "--teacher", TEACHER, "--teacher-weights", "random", "--out", out],
        "convert": [str(cache), "--codec", "fp16", "--column", "blocks-0-patch-fp32"],
        "verify": [str(cache)],
        "show": [str(cache)],
        "bench": [str(cache), "--seconds", "0.1"],
        "train": ["--cache", str(cache), "--student", TEACHER, "--method", "logit", "--out", out],
        "sweep": ["--cache", str(cache), "--student", TEACHER, "--method", "low-rank", "--out", out],
        "eval": [str(folder), "--data", "digits:test"],
        "export": [str(folder), "--out", out],
        "analyze": [str(cache), "--images", "2", "--permutations", "1", "--out", out],
        "report": [str(folder / "missing"), "--out", str(folder / "page.html")],
    }[verb]


def mistakes(verb: str) -> list[tuple[str, str]]:
    parser = verb_parser(verb, importlib.import_module(f"kdcache.cli.{verb}"))
    found: list[tuple[str, str]] = []
    for action in parser._actions:
        if not action.option_strings or action.nargs == 0:
            continue
        values = {int: NUMBERS, float: FRACTIONS}.get(action.type, TEXTS)
        found += [(action.option_strings[0], value) for value in (["nonsense", ""] if action.choices else values)]
    return found


def outcome(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and what is on stderr; any other exception is a traceback for the user, and fails."""
    try:
        code = main(words)
    except SystemExit as leave:
        code = int(leave.code or 0)
    return code, capsys.readouterr().err


def without(words: list[str], flag: str) -> list[str]:
    """A command without a flag that is to be given otherwise."""
    if flag not in words:
        return words
    at = words.index(flag)
    return words[:at] + words[at + 2 :]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.slow
def test_no_value_of_any_flag_ends_in_a_traceback(
    verb: str, tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def reached(*_: Any, **__: Any) -> None:
        raise Reached("the work begins")

    for name in WORK[verb]:
        monkeypatch.setattr(name, reached)
    monkeypatch.setattr("kdcache.teacher.begin.estimate_pass", lambda *_: None)
    monkeypatch.setattr("kdcache.cli.extract.source_text", lambda *_: "")
    monkeypatch.chdir(tmp_path)
    problems: list[str] = []
    for flag, value in mistakes(verb):
        words = [verb, *without(base_words(verb, tiny_root, tmp_path), flag), f"{flag}={value}"]
        try:
            code, shown = outcome(words, capsys)
        except Exception as error:
            problems.append(f"{flag} {value!r}: {type(error).__name__}: {error}")
            continue
        said = shown.count(f"kdcache {verb}: error: ")
        if code not in (0, 1, 2) or said != bool(code) or "Traceback" in shown or "\x1b" in shown:
            problems.append(f"{flag} {value!r}: {code}, {shown!r}")
        elif value in NEVER_RIGHT and flag not in ANY_NUMBER and code != 2:
            problems.append(f"{flag} {value!r}: was not refused, {code}, {shown!r}")
    assert problems == []
