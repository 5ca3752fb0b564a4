"""No module of the package imports one that imports it, directly or through others, not even inside a function."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import kdcache_kernels
import pytest

FOLDER = Path(next(iter(kdcache_kernels.__path__)))


def imports(folder: Path, package: str) -> dict[str, set[str]]:
    """Modules of a package, by name, that each of them imports anywhere in its file; packages themselves left out."""
    files = {
        ".".join((package, *file.relative_to(folder).with_suffix("").parts)): file
        for file in folder.rglob("*.py")
        if file.name != "__init__.py"
    }
    found: dict[str, set[str]] = {}
    for name, file in files.items():
        imported: set[str] = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module)
                imported.update(f"{node.module}.{alias.name}" for alias in node.names)
        found[name] = imported & files.keys()
    return found


def test_there_is_no_import_cycle() -> None:
    graph = imports(FOLDER, "kdcache_kernels")
    assert len(graph) > 30
    TopologicalSorter(graph).prepare()


def test_a_cycle_through_a_function_is_found(tmp_path: Path) -> None:
    (tmp_path / "quantize.py").write_text("def run():\n    from toy.device.rows import launch\n", encoding="utf-8")
    (tmp_path / "device").mkdir()
    (tmp_path / "device" / "rows.py").write_text("from toy.quantize import run\n", encoding="utf-8")
    with pytest.raises(CycleError):
        TopologicalSorter(imports(tmp_path, "toy")).prepare()
