"""Folders that only look like classes: the splits of a train/val tree, and a folder that wraps the class folders."""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from kdcache.errors import Remedy, SourceError
from kdcache.images.classes import natural_order

_TRAIN = frozenset(["train", "training"])
_HELD_OUT = frozenset(
    ["val", "valid", "validation", "dev", "test", "testing", "eval", "evaluation", "holdout"]
)  # fmt: skip
# Only beside other splits.
_FURTHER = frozenset(["pred", "prediction", "unlabeled", "unlabelled", "extra"])
# Words that are always there and say nothing: the rest of a split's name.
_FILLING = frozenset(["set", "images", "image", "img", "imgs", "data", "dataset", "x"])
_MAX_NAMED = 4


def are_splits(folders: Collection[str]) -> bool:
    """Whether all of some folders are called train, val, test or the like (``seg_train``, ``Validation-Set``)."""
    words = [_words(name) for name in folders]
    splits = _TRAIN | _HELD_OUT
    return any(each & splits for each in words) and all(each & (splits | _FURTHER) for each in words)


def refuse_splits(root: Path, images: Sequence[Path]) -> None:
    """Refuse the root of a train/val tree, whose "classes" would be its splits, and a folder that only wraps classes.

    Args:
        root: The folder.
        images: Those below its folders.

    Raises: SourceError naming the folder that was meant, and that can be passed.
    """
    problem = _problem(root, images)
    if not problem:
        return
    meant = root
    while _problem(meant, images):
        names = natural_order(_inside(meant, images))
        meant /= next((name for name in names if _words(name) & _TRAIN), names[0])
        images = _below(meant, images)
    raise SourceError(f"{root}: {problem}; pass {meant}", remedy=Remedy.NAME_FOLDERS)


def _inside(root: Path, images: Sequence[Path]) -> dict[str, set[str]]:
    """For each folder of a root the names of its folders that hold images; ``""`` for images of its own."""
    inside: dict[str, set[str]] = {}
    for path in images:
        parts = path.relative_to(root).parts
        inside.setdefault(parts[0], set()).add(parts[1] if len(parts) > 2 else "")
    return inside


def _below(folder: Path, images: Sequence[Path]) -> list[Path]:
    """The images in folders of a folder."""
    return [path for path in images if path.is_relative_to(folder) and path.parent != folder]


def _problem(root: Path, images: Sequence[Path]) -> str:
    """Why the folders of a root are no classes; empty where they may be."""
    inside = _inside(root, images)
    folders = natural_order(inside)
    is_nested = bool(inside) and all("" not in names and len(names) > 1 for names in inside.values())
    shown = ", ".join(folders[:_MAX_NAMED]) + (", …" if len(folders) > _MAX_NAMED else "")
    if len(folders) <= 1:
        if not is_nested:
            has_own = not folders or "" in inside[folders[0]]
            return "" if has_own else _problem(root / folders[0], _below(root / folders[0], images))
        if are_splits(folders):
            return f"its folders are the splits {shown}, not classes"
        return f"it holds one folder with images, {shown}, and the class folders are in that"
    found = [name for name in folders if _is_plain_split(name)]
    if are_splits(folders) or (any(_words(name) & _TRAIN for name in found) and len(found) > 1):
        return f"its folders are the splits {', '.join(found or folders)}, not classes"
    times = Counter(name for names in inside.values() for name in names)
    shared = natural_order(name for name, count in times.items() if count > 1)
    if is_nested and 2 * len(shared) >= len(times):
        return (
            f"its folders {shown} hold no images but the same folders ({', '.join(shared[:_MAX_NAMED])}), as splits do"
        )
    return ""


def _is_plain_split(name: str) -> bool:
    """Whether a folder is called as a split and nothing else."""
    words = _words(name)
    return bool(words & (_TRAIN | _HELD_OUT)) and words <= _TRAIN | _HELD_OUT | _FILLING


def _words(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}
