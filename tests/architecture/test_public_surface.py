"""What `import kdcache` offers: one set of names, to the interpreter and to an editor."""

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import kdcache
import kdcache.train.loop
from kdcache.teacher.extract import extract

ROOT = Path(__file__).parents[2]


def names_for_editors() -> dict[str, str]:
    """Imports under TYPE_CHECKING: each name and the module that it comes from."""
    tree = ast.parse((ROOT / "kdcache" / "__init__.py").read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module or "" for node in imports for alias in node.names}


def test_the_three_lists_agree() -> None:
    assert set(names_for_editors()) == set(kdcache.__all__) == set(kdcache._PUBLIC)
    assert len(kdcache.__all__) == len(set(kdcache.__all__))


@pytest.mark.parametrize("name", kdcache.__all__)
def test_editors_and_the_interpreter_see_the_same_object(name: str) -> None:
    module = __import__(names_for_editors()[name], fromlist=[name])
    if name != "train":
        assert getattr(kdcache, name) is getattr(module, name)
    assert name in dir(kdcache)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="module 'kdcache' has no attribute 'nothing'"):
        kdcache.nothing  # noqa: B018


def test_extract_is_the_function() -> None:
    assert kdcache.extract is extract


@pytest.mark.slow
def test_train_is_a_package_that_can_be_called() -> None:
    function = kdcache.train.loop.train
    assert inspect.signature(kdcache.train) == inspect.signature(function)
    with pytest.raises(TypeError, match=r"train\(\) missing 3 required positional arguments"):
        kdcache.train()
    # A fresh interpreter, in which the attribute is asked for before the package is imported.
    code = """
import kdcache
before = kdcache.train
import kdcache.train.loop
from kdcache import train
assert before is kdcache.train is train and callable(train)
assert train.RunConfig is kdcache.RunConfig
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_pyright_sees_their_types(tmp_path: Path) -> None:
    """No public name is Any, and one that does not exist is an error."""
    sample = tmp_path / "sample.py"
    lines = ["import kdcache", *(f"reveal_type(kdcache.{name})" for name in kdcache.__all__)]
    sample.write_text("\n".join([*lines, "kdcache.nothing", "kdcache.extract(3)"]) + "\n")
    config = {"extraPaths": [str(ROOT), str(ROOT / "kernels")], "typeCheckingMode": "standard"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.stdout.startswith("{"), f"pyright did not run: {result.stdout}{result.stderr}"
    found = {
        (each["severity"], each["range"]["start"]["line"]): each["message"]
        for each in json.loads(result.stdout)["generalDiagnostics"]
    }
    for number, name in enumerate(kdcache.__all__, 1):
        revealed = found["information", number].partition(" is ")[2]
        assert revealed.startswith((f'"type[{name}]"', '"(')), revealed
        assert "Unknown" not in revealed
    assert '"nothing" is not a known attribute of module' in found["error", len(lines)]
    assert '"ExtractConfig"' in found["error", len(lines) + 1]
    assert len(found) == len(lines) + 1
