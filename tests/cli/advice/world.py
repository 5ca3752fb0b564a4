"""Where advice is provoked and followed: one command must fail with a remedy, another that uses it must go."""

import importlib
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kdcache.cli import remedies
from kdcache.cli.main import main
from kdcache.errors import Remedy
from tests.cli.test_mistakes import Reached
from tests.conftest import TEACHER, tiny_extract

# Where a run begins its work, and a pass its forwards.
TRAINING, TEACHER_BUILT = "kdcache.train.loop.Run", "kdcache.teacher.begin.Teacher"
STUDENT = ("patch_size=4", "depth=1", "embed_dim=12", "num_heads=3")


class World:
    """Runs commands inside the test process, and remembers which remedies they showed.

    Args:
        folder: For new files.
        monkeypatch: Undone after the test.
        kept: For what several tests begin with, which is made once and copied.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, kept: Path) -> None:
        self.folder = folder
        self._kept = kept
        self.patch = monkeypatch
        self.seen: list[tuple[Remedy, str]] = []
        self._advised = ""
        worded = remedies.remedy_text

        def recorded(remedy: Remedy, details: Any) -> str:
            self.seen.append((remedy, worded(remedy, details)))
            return self.seen[-1][1]

        monkeypatch.setattr(remedies, "remedy_text", recorded)
        # Half a second each.
        monkeypatch.setattr("kdcache.teacher.begin.estimate_pass", lambda *_: None)
        monkeypatch.setattr("kdcache.cli.extract.source_text", lambda *_: "")

    def fails(self, remedy: Remedy, *words: str | Path) -> str:
        """A command that must show a remedy; returns its words."""
        self.seen.clear()
        assert self.run(words) in (1, 2), words
        shown = dict(self.seen)
        assert remedy in shown, f"{words} showed {self.seen}"
        self._advised = shown[remedy]
        return self._advised

    def goes(self, *words: str | Path, until: str = "") -> None:
        """A command that must go, at least until the work named begins, and that uses the flags advised last."""
        flags = set(re.findall(r"--[a-z][a-z-]+", self._advised))
        assert not flags or flags & {str(word) for word in words}, f"{words} uses none of {flags}"
        self.works(*words, until=until)

    def works(self, *words: str | Path, until: str = "") -> None:
        """A command that must go, whatever was advised."""
        self.seen.clear()
        if not until:
            assert self.run(words) == 0, f"{words} showed {self.seen}"
            return
        with self.stopping(until):
            self.run(words)
        assert self.stopped, f"{words} showed {self.seen}"
        # What was only begun is not resumed by the next command.
        if "--out" in words:
            shutil.rmtree(words[words.index("--out") + 1])

    @contextmanager
    def stopping(self, name: str) -> Iterator[None]:
        """Work that is not done within the block, once it is reached."""
        self.stopped = False

        def reached(*_: Any, **__: Any) -> None:
            self.stopped = True
            raise Reached("the work begins")

        module, _, attribute = name.rpartition(".")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(importlib.import_module(module), attribute, reached)
            yield

    def copy(self, root: Path) -> Path:
        """A copy of a cache to change."""
        return Path(shutil.copytree(root, self.folder / f"copy-{len(list(self.folder.iterdir()))}"))

    def small_cache(self) -> Path:
        """A cache as `small_cache` makes it, to change."""
        return self.copy(self._made("cache", small_cache))

    def finished_run(self, cache: Path) -> Path:
        """A run of one epoch on the cache of all tests, to change."""
        return self.copy(self._made("run", lambda out: self.works(*train_words(cache, out, "--codec", "fp16"))))

    def _made(self, name: str, make: Callable[[Path], object]) -> Path:
        if not (self._kept / name).is_dir():
            make(self._kept / name)
        return self._kept / name

    def run(self, words: tuple[str | Path, ...]) -> int:
        """Exit code of a command."""
        try:
            return main([str(word) for word in words])
        except SystemExit as leave:
            return int(leave.code or 0)


Scenario = Callable[[World, pytest.FixtureRequest], None]


def train_words(cache: Path, out: Path, *more: str, method: str = "logit") -> list[str]:
    """A small run."""
    words = ["train", "--cache", str(cache), "--student", TEACHER, "--student-kwargs", *STUDENT, "--method", method]
    return [*words, "--batch-size", "4", "--epochs", "1", "--out", str(out), *more]


def small_cache(out: Path, **changes: Any) -> Path:
    """A cache of a few images and one or two columns."""
    from kdcache.teacher.extract import extract

    settings: dict[str, Any] = {"taps": ("blocks.-1/patch:fp16", "head/logits"), "views": 1, "limit": 8}
    extract(tiny_extract(out, **{**settings, **changes}))
    return out


def raises_once(error: BaseException, then: Callable[..., Any]) -> Callable[..., Any]:
    """A function that fails at first."""
    errors = [error]

    def call(*given: Any, **named: Any) -> Any:
        if errors:
            raise errors.pop()
        return then(*given, **named)

    return call
