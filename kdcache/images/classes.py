"""Which class a folder is: the order of classes, and the folders that are none."""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from kdcache.errors import SourceError

ClassOrder = Literal["natural", "sorted"]
# What unpacking, network storage, notebooks and file systems leave behind; compared without case.
_DROPPINGS = frozenset(
    ["__macosx", "@eadir", "#recycle", ".ipynb_checkpoints", "lost+found", "$recycle.bin", "thumbs.db", "desktop.ini",
     "system volume information", ".ds_store"]
)  # fmt: skip
_SPLIT = re.compile(r"(train|training|val|valid|validation|dev|test|testing)[-_ ]?\d*", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class ClassRule:
    """How class folders become class indices.

    Args:
        order: ``natural`` sorts as timm does, numbers by value and without case, so that a teacher trained by timm on
            the same folders has the same classes; ``sorted`` by code points, as torchvision does.
        class_map: A text file with one class folder's name on each line, in the order of the classes (as timm's; for
            example the 1,000 wnids of ImageNet, for a subset of its folders); takes the place of `order`.
        names: The same by a program, for example the classes of a cache.
    """

    order: ClassOrder = "natural"
    class_map: Path | None = None
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.order not in get_args(ClassOrder):
            raise ValueError(f"class order must be one of {', '.join(get_args(ClassOrder))}, got {self.order!r}")

    def class_names(self, folders: Collection[str], *, where: str) -> list[str]:
        """Names of the classes by index.

        Args:
            folders: Names of the class folders that hold images.
            where: For messages.

        Raises: SourceError for a class map that cannot be read, or that lacks one of the folders.
        """
        if not self.has_names:
            return sorted(folders) if self.order == "sorted" else natural_order(folders)
        names = self.known_names()
        if missing := natural_order(set(folders) - set(names)):
            found = f"class {missing[0]!r} ({len(missing)} of {len(folders)})"
            if self.class_map is None:
                raise SourceError(
                    f"{where}: {found} is none of the {len(names)} classes {', '.join(names[:3])}, … that are known "
                    "here; its images would have no class, so move it away"
                )
            raise SourceError(
                f"{where}: {found} is not in {self.class_map}, which names {len(names)} classes; add it there, or "
                "move it away"
            )
        return names

    @property
    def has_names(self) -> bool:
        """Whether the classes are given, whatever the images have."""
        return self.class_map is not None or bool(self.names)

    def known_names(self) -> list[str]:
        """The given classes by index; empty where the images decide. Raises: SourceError for an unreadable map."""
        return list(self.names) if self.class_map is None else _read_class_map(self.class_map)


def natural_order(names: Iterable[str]) -> list[str]:
    """Names sorted as timm sorts class folders: digits by value, letters without case; equal ones by code points."""
    return sorted(names, key=lambda name: (_natural_key(name), name))


def is_dropping(name: str) -> bool:
    """Whether a file or folder of this name is never an image or a class: hidden, or left by an operating system."""
    return name.startswith(".") or name.lower() in _DROPPINGS


def are_splits(folders: Collection[str]) -> bool:
    """Whether all of some folders are called train, val, test or the like."""
    return all(_SPLIT.fullmatch(name) for name in folders)


def refuse_splits(root: Path, folders: Sequence[str], *, is_nested: bool) -> None:
    """Refuse the root of a train/val tree, whose "classes" would be its splits, and a folder that only wraps classes.

    Args:
        root: The folder.
        folders: Its folders that hold images.
        is_nested: Whether none of them holds an image itself, but only in several folders of its own.

    Raises: SourceError naming the folder that was meant.
    """
    if are_splits(folders) and (is_nested or len(folders) > 1):
        first = next((name for name in folders if name.lower().startswith("train")), folders[0])
        raise SourceError(
            f"{root}: its folders are the splits {', '.join(folders)}, not classes; pass one of them: {root / first}"
        )
    if is_nested and len(folders) == 1:
        raise SourceError(
            f"{root}: it holds one folder with images, {folders[0]}, and the class folders are in that; pass "
            f"{root / folders[0]}"
        )


def _natural_key(name: str) -> list[str | int]:
    return [int(part) if number % 2 else part for number, part in enumerate(re.split(r"(\d+)", name.lower()))]


def _read_class_map(path: Path) -> list[str]:
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(
            f"{path}: cannot be read as a class map ({type(error).__name__}); wanted a text file"
        ) from None
    if not names or len(set(names)) != len(names):
        raise SourceError(f"{path}: wanted one class folder's name on each line, each once; found {len(names)} names")
    return names
