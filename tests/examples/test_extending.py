"""The files of docs/extending.md run as they stand, and the page names each of them."""

import importlib.util
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from kdcache.cache.codecs import CODECS
from kdcache.students import CHANGES
from kdcache.terms import TERMS
from tests.conftest import STUDENT_KWARGS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "extending"
STUDENT: dict[str, Any] = {"student": "vit_tiny_patch16_224", "student_kwargs": STUDENT_KWARGS, "batch_size": 4}
Load = Callable[[str], ModuleType]


@pytest.fixture(scope="module")
def load() -> Iterator[Load]:
    """Loads one of the files by name; what they add to the tables of kdcache goes with this module."""
    tables: list[tuple[dict[str, Any], dict[str, Any]]] = [(each, dict(each)) for each in (CODECS, TERMS, CHANGES)]
    loaded: list[str] = []

    def of_name(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"extending_{name}", FOLDER / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        loaded.append(spec.name)
        spec.loader.exec_module(module)
        return module

    yield of_name
    for table, before in tables:
        table.clear()
        table.update(before)
    for name in loaded:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def cache(load: Load, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache that the teacher's file writes."""
    folder = tmp_path_factory.mktemp("extending") / "cache"
    load("teacher").main(str(folder))
    return folder


def test_the_page_names_every_file() -> None:
    page = (ROOT / "docs" / "extending.md").read_text()
    assert [path.name for path in FOLDER.glob("*.py") if f"(../examples/extending/{path.name})" not in page] == []


def test_a_codec(load: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load("codec").main(str(tmp_path / "cache"))
    assert "blocks-1-patch-minmax8" in capsys.readouterr().out


def test_a_teacher(cache: Path) -> None:
    assert (cache / "scaled-vit-tiny").is_dir()


def test_a_term(load: Load, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    term = load("term")
    term.main(str(cache), str(tmp_path / "run"), **STUDENT, epochs=1)
    # Its configuration is read back: the same run takes another epoch.
    term.main(str(cache), str(tmp_path / "run"), **STUDENT, epochs=2)
    assert capsys.readouterr().out.count("'attention': 0.") == 2


def test_a_change(load: Load, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load("change").main(str(cache), str(tmp_path / "run"), **STUDENT, epochs=1)
    assert "3 prefix tokens" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "said"), [("term", "'attention': 0."), ("change", "3 prefix tokens")])
def test_as_typed_they_train_on_a_cache_of_the_demo(
    load: Load,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    said: str,
) -> None:
    """Here a cache of like views and tokens, 16 pixels and 4 x 4."""
    monkeypatch.setattr(sys, "argv", [f"{name}.py", str(cache), str(tmp_path / "run")])
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    assert said in capsys.readouterr().out


def test_a_storage(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for library in ("obstore", "moto.server"):
        pytest.importorskip(library, reason=f"{library} is not installed; the extra test has it")
    storage = load("storage")
    # It sets them in its own process; here they go with the test.
    for name in (*storage.SETTINGS, "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("KDCACHE_STAGING", str(tmp_path))
    storage.main()
    assert "32 views read back" in capsys.readouterr().out


@pytest.mark.slow
def test_a_kernel() -> None:
    command = [sys.executable, str(FOLDER / "kernel.py")]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    env = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": paths}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.count("off by") == 2
