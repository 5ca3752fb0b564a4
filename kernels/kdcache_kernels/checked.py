"""Which kernels were right on a GPU as they are now: their code and settings, by digest.

Code that is interpreted right and compiles cleanly can still race. So a table names the GPU that its kernels were
checked on, and holds a digest of each; a kernel that has changed since is not used unasked.
"""

import ast
import functools
import hashlib
import io
import json
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_DEVICE = Path(__file__).parent / "device"
_PACKAGE = "kdcache_kernels.device."
_LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING}


def digest(kernel: str, rows: Mapping[str, Any]) -> str:
    """Of a kernel's compiled functions and its rows of a table; comments, docstrings and layout do not matter.

    Args:
        kernel: Name of its file in ``device/``, without the ending.
        rows: Settings by width.
    """
    made = hashlib.sha256(json.dumps(rows, sort_keys=True).encode())
    for text in _functions(kernel):
        made.update(text.encode())
    return made.hexdigest()[:16]


def is_checked(document: Mapping[str, Any], kernel: str) -> bool:
    """Whether a kernel is as it was when it was checked.

    Args:
        document: A table with all its fields.
        kernel: Its name.
    """
    return document.get("checked", {}).get(kernel) == digest(kernel, document["kernels"].get(kernel, {}))


def stamped(document: Mapping[str, Any], checked_on: str) -> dict[str, Any]:
    """The table, with all its kernels checked as they are now.

    Args:
        document: A table with all its fields.
        checked_on: The GPU and the date.
    """
    digests = {kernel: digest(kernel, rows) for kernel, rows in document["kernels"].items()}
    return {**document, "checked_on": checked_on, "checked": digests}


@functools.cache
def _functions(module: str) -> tuple[str, ...]:
    """Tokens of every ``triton.jit`` function of a file, and of those of the device files that it imports from."""
    path = _DEVICE / f"{module}.py"
    if not path.is_file():
        return ()
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    own = tuple(
        _tokens(source, node)
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and any("triton.jit" in ast.unparse(each) for each in node.decorator_list)
    )
    imported = sorted(
        node.module.removeprefix(_PACKAGE)
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(_PACKAGE)
    )
    return own + tuple(text for each in imported for text in _functions(each))


def _tokens(source: str, function: ast.FunctionDef) -> str:
    text = ast.get_source_segment(source, function)
    assert text is not None
    docstring = ast.get_docstring(function, clean=False)
    options = [ast.unparse(each) for each in function.decorator_list]
    code = (each for each in _read(text) if docstring is None or not _is_string(each, docstring))
    return " ".join((*options, *code))


def _read(text: str) -> Iterator[str]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _LAYOUT:
            yield token.string


def _is_string(token: str, text: str) -> bool:
    return token.startswith('"""') and token[3:-3] == text
