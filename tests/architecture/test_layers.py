"""Imports point down the layer table only; each rule is shown to catch a planted violation."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS: dict[str, int] = {
    "errors": -1, "storage": 0,
    "remote": 1,
    "ops": 1, "config": 1, "cancel": 1, "ordered_map": 1, "durable": 1, "forks": 1,
    "interrupt": 1, "strict_json": 1, "seeds": 1, "pixels": 1, "packed": 1, "pixel_rule": 1, "per_class": 2,
    "losses": 2, "cache": 2, "views": 2, "images": 2, "distributed": 2,
    "models": 3, "reading": 3,
    "stream": 4,
    "terms": 5, "teacher": 5, "students": 5,
    "methods": 6, "costs": 6, "analysis": 6, "convert": 6,
    "train": 7,
    "recipes": 8, "reports": 8, "export": 8, "planning": 8,
    "cli": 9,
    "__main__": 10,
}  # fmt: skip
TORCH_FREE = (
    "cache/",
    "images/",
    "views/",
    "reading/",
    "stream/order.py",
    "stream/config.py",
    "stream/prefetch.py",
    "stream/images.py",
    "stream/readahead.py",
)


def imports_of(source: str) -> set[str]:
    """Full names of everything a module imports, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the layer"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
    return found


def layer_violations(relative: str, source: str) -> list[str]:
    """What is wrong with the imports of one file of kdcache/."""
    own = relative.split("/")[0].removesuffix(".py")
    problems: list[str] = []
    for name in imports_of(source):
        parts = name.split(".")
        if parts[0] == "kdcache_kernels" and relative != "ops.py":
            problems.append(f"{relative} imports {name}; only ops.py may")
        if parts[0] == "tests":
            problems.append(f"{relative} imports the tests")
        if parts[0] in ("torch", "timm") and relative.startswith(TORCH_FREE):
            problems.append(f"{relative} imports {name}; it must work without torch")
        if parts[0] == "pickle" or (parts[0] == "kdcache" and "pickle" in parts):
            problems.append(f"{relative} imports pickle")
        if parts[0] != "kdcache" or len(parts) < 2 or parts[1] == "__version__" or parts[1] == own:
            continue
        if parts[1] not in LAYERS:
            problems.append(f"{relative} imports {name}, which has no layer")
        elif own != "__init__" and LAYERS[parts[1]] >= LAYERS[own]:
            problems.append(f"{relative} (layer {LAYERS[own]}) imports {name} (layer {LAYERS[parts[1]]})")
    return problems


def test_imports_point_down() -> None:
    package = ROOT / "kdcache"
    problems = [
        problem
        for path in sorted(package.rglob("*.py"))
        for problem in layer_violations(path.relative_to(package).as_posix(), path.read_text())
    ]
    assert problems == []


@pytest.mark.parametrize(
    ("relative", "source"),
    [
        ("cache/index.py", "from kdcache.stream import CacheLoader"),
        ("cache/index.py", "from kdcache.views import ViewParams"),
        ("stream/loader.py", "def f():\n    from kdcache.teacher.extract import extract"),
        ("errors.py", "import kdcache.durable"),
        ("cache/index.py", "import torch"),
        ("train/loop.py", "import kdcache_kernels"),
        ("train/loop.py", "from tests.conftest import tiny_extract"),
        ("cache/index.py", "import pickle"),
    ],
)
def test_a_planted_violation_is_found(relative: str, source: str) -> None:
    assert layer_violations(relative, source)


def test_kernels_import_nothing_of_kdcache() -> None:
    for path in (ROOT / "kernels").rglob("*.py"):
        assert not {name for name in imports_of(path.read_text()) if name.split(".")[0] == "kdcache"}, path


def test_training_cannot_reach_the_teacher() -> None:
    for folder in ("methods", "train", "stream", "models"):
        for path in (ROOT / "kdcache" / folder).rglob("*.py"):
            assert not {name for name in imports_of(path.read_text()) if name.startswith("kdcache.teacher")}, path


def test_the_kernel_folder_is_no_package() -> None:
    assert not (ROOT / "kernels" / "__init__.py").exists(), "it would shadow a package of that name"


def test_every_module_has_its_test() -> None:
    """Tests mirror the packages: kdcache/stream/order.py -> tests/stream/test_order.py."""
    missing: list[str] = []
    for path in sorted((ROOT / "kdcache").rglob("*.py")):
        relative = path.relative_to(ROOT / "kdcache")
        if relative.stem.startswith("__") or (relative.parts[0] == "cache" and relative.parts[1] == "codecs"):
            continue
        if not (ROOT / "tests" / relative.parent / f"test_{relative.name}").is_file():
            missing.append(relative.as_posix())
    assert missing == []
