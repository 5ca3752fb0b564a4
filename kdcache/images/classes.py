"""Which class a folder is: the order of classes, and the folders that are none."""

import re
import unicodedata
from collections.abc import Collection, Iterable
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
        _refuse_twins(folders, where)
        if not self.has_names:
            return sorted(folders) if self.order == "sorted" else natural_order(folders)
        names = self.known_names()
        known = indices_by_name(names)
        if missing := natural_order(name for name in folders if plain_name(name) not in known):
            found = f"class {missing[0]!r} ({len(missing)} of {len(folders)})"
            if self.class_map is None:
                raise SourceError(
                    f"{where}: {found} is none of the {len(names)} classes {', '.join(names[:3])}, … that are known "
                    "here; its images would have no class, so move it away"
                )
            raise SourceError(
                f"{where}: {found} is not in {self.class_map}, which names {len(names)} classes, the first "
                f"{names[0]!r}; add it there, or move it away"
            )
        return names

    @property
    def has_names(self) -> bool:
        """Whether the classes are given, whatever the images have."""
        return self.class_map is not None or bool(self.names)

    def knows(self, folders: Collection[str]) -> bool:
        """Whether all of some folders are given classes."""
        return self.has_names and {plain_name(name) for name in folders} <= indices_by_name(self.known_names()).keys()

    def known_names(self) -> list[str]:
        """The given classes by index; empty where the images decide. Raises: SourceError for an unreadable map."""
        return list(self.names) if self.class_map is None else _read_class_map(self.class_map)


def natural_order(names: Iterable[str]) -> list[str]:
    """Names sorted as timm sorts class folders: digits by value, letters without case; equal ones by code points."""
    return sorted(names, key=lambda name: (_natural_key(name), name))


def is_dropping(name: str) -> bool:
    """Whether a file or folder of this name is never an image or a class: hidden, or left by an operating system."""
    return name.startswith(".") or name.lower() in _DROPPINGS


def plain_name(name: str) -> str:
    """A name as it is compared: macOS writes ``é`` as two characters (NFD), other systems as one (NFC)."""
    return unicodedata.normalize("NFC", name)


def indices_by_name(class_names: Iterable[str]) -> dict[str, int]:
    """Index of each class by its `plain_name`."""
    return {plain_name(name): index for index, name in enumerate(class_names)}


def _natural_key(name: str) -> list[str | int]:
    return [int(part) if number % 2 else part for number, part in enumerate(re.split(r"(\d+)", name.lower()))]


def _refuse_twins(names: Collection[str], where: str) -> None:
    """Refuse names that look the same and differ in their bytes, as a copy from macOS beside another leaves them."""
    seen: dict[str, str] = {}
    for name in names:
        if (twin := seen.setdefault(plain_name(name), name)) != name:
            raise SourceError(
                f"{where}: class {name!r} is there twice, {twin!a} and {name!a}: the same letters in two "
                "Unicode forms (NFC, NFD); put the images of both into one"
            )


def _read_class_map(path: Path) -> list[str]:
    try:
        # Excel and PowerShell begin a text with a byte order mark.
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(
            f"{path}: cannot be read as a class map ({type(error).__name__}); wanted a text file in UTF-8"
        ) from None
    wanted = "wanted one class folder's name on each line, each once"
    if lines and lines[0][:1] in ("{", "["):
        raise SourceError(f"{path}: this is JSON; {wanted}")
    if "" in lines:
        # timm gives an empty line an index, others skip it.
        raise SourceError(
            f"{path}: line {lines.index('') + 1} is empty, so that the classes behind it have no index; {wanted}"
        )
    if not lines or len(indices_by_name(lines)) != len(lines):
        raise SourceError(f"{path}: {wanted}; found {len(lines)} names")
    return lines
