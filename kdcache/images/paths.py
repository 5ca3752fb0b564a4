"""The paths that a user's words name: lists, globs, brace ranges and ``~``, with or without a shell's help."""

import difflib
import glob
import os
import re
from itertools import islice
from pathlib import Path

from braceexpand import UnbalancedBracesError, braceexpand  # pyright: ignore[reportAttributeAccessIssue]

from kdcache.errors import SourceError
from kdcache.images.classes import natural_order

# Between several values in one text, as WebDataset's users write lists.
SEPARATOR = "::"
_MAX_PATHS = 100_000


def expand_paths(text: str) -> list[Path]:
    """The paths that are there behind some words, in the order of the words; globs in natural order.

    Args:
        text: A path; a pattern with ``*``, ``?``, ``[...]`` or braces; or several of these, separated by ``::`` or by
            commas. ``~`` is the home folder, ``$NAME`` a variable of the environment. A path that exists is taken as it
            is, whatever its name holds.

    Raises: SourceError for what is missing, named twice, or for unbalanced braces.
    """
    if os.path.lexists(text):
        return _checked([Path(text)], text)
    paths: list[Path] = []
    for part in split_list(text):
        expanded = _at_home(part)
        paths += [Path(expanded)] if os.path.lexists(expanded) else _expand(expanded)
    return _checked(paths, text)


def split_list(text: str) -> list[str]:
    """The values in a text: cut at ``::`` and at commas outside braces. Raises: SourceError where there is none."""
    parts = [part for each in text.split(SEPARATOR) for part in re.split(r",(?![^{]*\})", each)]
    found = [part for part in parts if part.strip()]
    if not found:
        raise SourceError(f"{text!r}: names no data; wanted a folder, tars or digits")
    # Spaces behind commas are no part of a path, but spaces of a path that is there are.
    return [part if os.path.lexists(_at_home(part)) else part.strip() for part in found]


def _at_home(part: str) -> str:
    # Path.expanduser raises for a user who is not there. Quotes that keep braces from the shell keep $HOME, too.
    return os.path.expandvars(os.path.expanduser(part))  # noqa: PTH111


def _expand(pattern: str) -> list[Path]:
    try:
        texts = list(islice(braceexpand(pattern), _MAX_PATHS + 1))
    except UnbalancedBracesError:
        raise SourceError(f"{pattern}: braces are not balanced; a pattern looks like train-{{000..127}}.tar") from None
    if len(texts) > _MAX_PATHS:
        raise SourceError(f"{pattern}: names more than {_MAX_PATHS:,} files")
    paths: list[Path] = []
    for text in texts:
        if os.path.lexists(text) or not glob.has_magic(text):
            paths.append(Path(text))
        elif matches := natural_order(glob.glob(text)):  # noqa: PTH207
            paths += [Path(match) for match in matches]
        else:
            raise SourceError(f"{text}: no file or folder matches this pattern; check the path")
    return paths


def _checked(paths: list[Path], text: str) -> list[Path]:
    # Path.exists raises for names that are too long, and where a folder may not be searched.
    missing = [path for path in paths if not os.path.exists(path)]  # noqa: PTH110
    if missing:
        first = missing[0]
        if os.path.islink(first):  # noqa: PTH114
            raise SourceError(f"{first}: a link to {first.readlink()}, which is not there; restore that")
        if len(paths) > 1:
            count = f"{len(missing)} of {len(paths)} of {text!r} are missing"
            raise SourceError(f"{first}: no such file or folder ({count}); check the path")
        raise SourceError(f"{first}: no such file or folder; {_hint(first)}")
    seen: set[Path] = set()
    for path in paths:
        if path in seen:
            raise SourceError(f"{path}: is named twice in {text!r}; name it once")
        seen.add(path)
    return paths


def _hint(path: Path) -> str:
    """The nearest name beside a missing path."""
    parent = path.parent
    if not parent.is_dir():
        return f"there is no folder {parent} either; check the path"
    close = difflib.get_close_matches(path.name, [each.name for each in parent.iterdir()], n=1)
    return f"did you mean {parent / close[0]}?" if close else "check the path"
