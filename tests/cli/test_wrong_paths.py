"""Every path of every verb, given what lies there by mistake: one message, no traceback, nothing changed."""

import importlib
import os
import shutil
from argparse import Action
from pathlib import Path
from typing import Any

import pytest
import torch

from kdcache.cli.main import VERBS
from kdcache.cli.parser import verb_parser
from kdcache.cli.places import local_path, place
from kdcache.durable import sha256_file
from kdcache.train.loop import train
from tests.cli.test_mistakes import Reached, base_words, outcome, without
from tests.images.support import image_bytes, tree, write_tar
from tests.train.support import tiny_run

# Arguments that name a path among others, and are no Path to argparse.
NAMES_TOO = ("--data", "--eval-data", "--probe-data", "--teacher-weights", "--student-weights", "--weights", "--model")
# What would be begun with a mistake that nobody noticed.
WORK = (
    "kdcache.cli.demo._teacher", "kdcache.teacher.begin.Teacher", "kdcache.train.loop.Run",
    "kdcache.train.evaluate.evaluate", "kdcache.teacher.rerun.Teacher", "kdcache.analysis.run._measure",
    "kdcache.planning.plan.rehearse", "kdcache.convert.codec._fingerprint", "kdcache.convert.to_hdf5._lay_out",
    "kdcache.convert.from_hdf5._write_all", "kdcache.convert.imported._write",
)  # fmt: skip
SMALL = (
    "--codec",
    "fp16",
    "--student-kwargs",
    "img_size=16",
    "patch_size=4",
    "depth=1",
    "embed_dim=12",
    "num_heads=3",
    "--batch-size",
    "4",
)
# Without which a command would be refused, whatever the path is.
MORE: dict[str, tuple[str, ...]] = {
    "verify": ("--rerun-teacher", "1"),
    "show": ("--picture", "picture.png"),
    "train": SMALL,
    "sweep": (
        *SMALL, "--ranks", "1,2,3", "--student-weights", "random", "--teacher-accuracy", "90",
        "--eval-data", "digits:test",
    ),
}  # fmt: skip
# A run or a cache may be there already, and what the verb writes goes beside it.
ADDS = ("analyze", "demo", "export", "extract", "train", "sweep")


@pytest.fixture(scope="module")
def run_folder(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(tiny_root, folder, tiny_run(epochs=1))
    return folder


@pytest.fixture
def things(tiny_root: Path, run_folder: Path, tmp_path: Path) -> Path:
    """What may lie where something else is wanted."""
    folder = tmp_path / "things"
    shutil.copytree(tiny_root, folder / "cache")
    shutil.copytree(tiny_root, folder / "cache-cut")
    (folder / "cache-cut" / "manifest.json").write_bytes(b"")
    shutil.copytree(run_folder, folder / "run")
    shutil.copytree(run_folder, folder / "run-cut", ignore=lambda *_: {"config.json"})
    write_tar(folder / "images.tar", {"a.jpg": image_bytes(0), "a.cls": b"1"})
    shutil.copy(tiny_root / "samples" / "train-000000.tar", folder / "shard.tar")
    (folder / "image.jpg").write_bytes(image_bytes(1))
    (folder / "text.txt").write_text("a,1\nb,2\n")
    (folder / "list.json").write_text('[1, {"a": null}]')
    (folder / "empty").write_bytes(b"")
    (folder / "binary").write_bytes(bytes(range(256)) * 9)
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text('{"architecture": "resnet18"}')
    torch.save({"w": torch.zeros(2)}, folder / "weights.pth")
    (folder / "empty-folder").mkdir()
    tree(folder / "texts", "a.txt", "b/c.txt", "metrics.jsonl", "manifest.json")
    (folder / "nothing").symlink_to("away")
    (folder / "itself").symlink_to("itself")
    os.mkfifo(folder / "pipe")
    return folder


THINGS = (
    "cache", "cache-cut", "model", "run", "run-cut", "images.tar", "shard.tar", "image.jpg", "text.txt", "list.json",
    "empty", "binary", "weights.pth", "empty-folder", "texts", "nothing", "itself", "pipe", "missing", "text.txt/below",
    "missing/below", "long" * 100,
)  # fmt: skip


def paths_of(verb: str) -> list[Action]:
    parser = verb_parser(verb, importlib.import_module(f"kdcache.cli.{verb}"))
    kinds = (Path, place, local_path)
    found = [each for each in parser._actions if each.type in kinds or (each.option_strings or [""])[0] in NAMES_TOO]
    assert found, "every verb has a path"
    return found


def state(folder: Path) -> dict[str, str]:
    """Every file with its hash."""
    return {
        path.relative_to(folder).as_posix(): sha256_file(path) if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
        if "job" not in path.relative_to(folder).parts
    }


def words_with(verb: str, action: Action, path: str, cache: Path, run: Path, folder: Path) -> list[str]:
    """A command that is right but for one path."""
    words = [*base_words(verb, cache, folder), *MORE.get(verb, ())]
    words = [str(run) if word == str(folder) else word for word in words]
    if action.option_strings:
        return [*without(words, action.option_strings[0]), f"{action.option_strings[0]}={path}"]
    return [path, *[word for word in words if word not in (str(cache), str(run), str(folder / "missing"))]]


@pytest.fixture
def no_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever would begin its work is an error."""

    def reached(*_: Any, **__: Any) -> None:
        raise Reached("the work begins")

    for name in WORK:
        module, _, attribute = name.rpartition(".")
        monkeypatch.setattr(importlib.import_module(module), attribute, reached)
    monkeypatch.setattr("kdcache.teacher.begin.estimate_pass", lambda *_: None)
    monkeypatch.setattr("kdcache.cli.extract.source_text", lambda *_: "")
    monkeypatch.setattr("kdcache.cli.verify._check", lambda *_, **__: [])
    monkeypatch.setattr("kdcache.reports.page.render_page", lambda *_: "")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("verb", sorted(set(VERBS) - {"report", "export", "bench"}))
def test_the_command_without_a_mistake_would_begin(
    verb: str, tiny_root: Path, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else the test below would try one refusal many times."""
    words = [*base_words(verb, tiny_root, tmp_path), *MORE.get(verb, ())]
    code, shown = outcome([verb, *(str(run_folder) if word == str(tmp_path) else word for word in words)], capsys)
    assert code == 0 or "the work begins" in shown


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.slow
def test_no_path_ends_in_a_traceback(
    verb: str,
    tiny_root: Path,
    run_folder: Path,
    things: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = state(things)
    problems: list[str] = []
    for action in paths_of(verb):
        for thing in THINGS:
            name = (action.option_strings or [action.dest])[0]
            words = [verb, *words_with(verb, action, f"{things}/{thing}", tiny_root, run_folder, tmp_path)]
            try:
                code, shown = outcome(words, capsys)
            except Exception as error:
                problems.append(f"{name} {thing}: {type(error).__name__}: {error}")
                continue
            # What a command has made is no mistake of the next one.
            shutil.rmtree(things / "missing", ignore_errors=True)
            errors = shown.count(f"kdcache {verb}: error: ")
            if code not in (0, 1, 2) or errors != bool(code) or "Traceback" in shown:
                problems.append(f"{name} {thing}: {code}, {shown!r}")
    assert problems == []
    after = state(things)
    assert {name: after.get(name) for name in before} == before
    assert verb in ADDS or after.keys() == before.keys()
