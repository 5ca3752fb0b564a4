"""No imports in a circle, and functions stay simple; each rule is shown to catch a planted violation."""

import ast
import subprocess
import sys
from collections.abc import Container, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"kdcache": ROOT / "kdcache", "kdcache_kernels": ROOT / "kernels" / "kdcache_kernels"}


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """What runs when a module is imported: not functions' bodies, and not what only a type checker reads."""
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from statements(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
            for name in ("body", "orelse", "finalbody"):
                yield from statements(getattr(node, name, []))
            for handler in getattr(node, "handlers", []):
                yield from statements(handler.body)


def imported(source: str, modules: Container[str] = ()) -> set[str]:
    """Full names of what a module imports when it is imported.

    Args:
        source: Of the module.
        modules: A name taken from a package is one of these, or else it is the package that gives it.
    """
    found: set[str] = set()
    for node in statements(ast.parse(source).body):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parent = node.module or ""
            found |= {name if (name := f"{parent}.{alias.name}") in modules else parent for alias in node.names}
    return found


def cycle(modules: dict[str, str]) -> list[str]:
    """The modules of one cycle of imports, the first again at the end; empty if there is none.

    Args:
        modules: Sources by full name.
    """
    graph = {name: (imported(source, modules) & modules.keys()) - {name} for name, source in modules.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def sources(package: str) -> dict[str, str]:
    """The sources of a package and of its folders, by full name of the module."""
    root, found = PACKAGES[package], dict[str, str]()
    # An extension written in C has a stub, and imports nothing.
    for path in sorted([*root.rglob("*.py"), *root.rglob("*.pyi")]):
        parts = [package, *path.relative_to(root).with_suffix("").parts]
        found[".".join(parts).removesuffix(".__init__")] = path.read_text()
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_no_imports_in_a_circle(package: str) -> None:
    """Neither within a folder nor between one and a folder in it."""
    modules = sources(package)
    assert len(modules) > 10
    assert cycle(modules) == []


@pytest.mark.parametrize(
    ("module", "planted"),
    [
        ("kdcache.stream.order", "from kdcache.stream import loader"),
        ("kdcache.stream.order", "import kdcache.stream.loader"),
        ("kdcache.cache.codecs.base", "from kdcache.cache.manifest import ColumnFacts"),
        ("kdcache.views.draw", "from kdcache.views import replay_view"),
        (
            "kdcache.seeds",
            "if True:\n    try:\n        from kdcache.stream.order import epoch_order\n    finally:\n        pass",
        ),
    ],
)
def test_a_planted_cycle_is_found(module: str, planted: str) -> None:
    modules = sources("kdcache")
    modules[module] += f"\n{planted}\n"
    assert module in cycle(modules)


def test_what_is_not_run_at_import_is_no_import() -> None:
    checked = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import b\nelse:\n    import c\n"
    assert imported(checked) == {"typing", "c"}
    assert imported("def f():\n    import b\n") == set()
    assert imported("try:\n    import a\nexcept ImportError:\n    import b\nclass C:\n    import c\n") == set("abc")


def complexity_problems(*arguments: str) -> str:
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--select", "C901", "--output-format", "concise"]
    result = subprocess.run([*command, *arguments], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode in (0, 1), result.stderr
    return result.stdout if result.returncode else ""


def test_functions_are_simple() -> None:
    assert complexity_problems("kdcache", "kernels") == ""


def test_a_planted_tangle_is_found(tmp_path: Path) -> None:
    path = tmp_path / "tangle.py"
    for branches, is_found in ((9, False), (10, True)):
        path.write_text("def tangle(x):\n" + "".join(f"    if x == {at}:\n        x += 1\n" for at in range(branches)))
        found = complexity_problems("--config", str(ROOT / "pyproject.toml"), str(path))
        assert ("tangle" in found) == is_found
