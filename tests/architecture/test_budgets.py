"""Files, functions and parameter lists stay small enough to read."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_PARAMETERS = 300, 60, 8
MAX_KERNEL_LINES = 150
# A GPU kernel takes pointers and strides one by one, and a dispatcher schema holds no structures.
FLAT = ("triton.jit", "torch.library.custom_op", "register_fake")


def files() -> list[Path]:
    return [
        path
        for folder in ("kdcache", "kernels", "tests", "benchmarks", "examples")
        for path in sorted((ROOT / folder).rglob("*.py"))
    ]


def test_files_are_short() -> None:
    assert {
        path.name: count for path in files() if (count := len(path.read_text().splitlines())) > MAX_FILE_LINES
    } == {}


def test_functions_are_short() -> None:
    long: list[str] = []
    for path in files():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body
                has_doc = isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
                start = body[1].lineno if has_doc and len(body) > 1 else body[0].lineno
                lines = (node.end_lineno or start) - start + 1
                parameters = len([*node.args.args, *node.args.kwonlyargs])
                decorators = " ".join(ast.unparse(each) for each in node.decorator_list)
                is_flat = any(name in decorators for name in FLAT)
                most_lines = MAX_KERNEL_LINES if "triton.jit" in decorators else MAX_FUNCTION_LINES
                if lines > most_lines or (parameters > MAX_PARAMETERS + 1 and not is_flat):
                    long.append(f"{path.name}:{node.name} {lines} lines, {parameters} parameters")
    assert long == []


def test_public_names_are_documented() -> None:
    missing: list[str] = []
    for path in [*(ROOT / "kdcache").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")]:
        tree = ast.parse(path.read_text())
        if ast.get_docstring(tree) is None:
            missing.append(str(path))
        for node in tree.body:
            public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            if public and ast.get_docstring(node) is None:
                missing.append(f"{path.name}:{node.name}")
    assert missing == []
