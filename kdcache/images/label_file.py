"""Labels out of a list beside the images: a name and a label on each line."""

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kdcache.errors import SourceError
from kdcache.images.classes import ClassRule, indices_by_name, plain_name
from kdcache.images.labels import class_index
from kdcache.images.source import UNLABELLED, Source

_MAX_LINE_BYTES = 1 << 16
# As many images with a class of their own are no chance.
_MANY = 10
# Also those that are no class index, so that they are refused and no class of that name is made.
_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?")


@dataclass(frozen=True)
class _Line:
    """A line of the list."""

    number: int
    name: str
    label: str


def take_labels(source: Source, path: Path, classes: ClassRule) -> None:
    """Give the images of a source the labels of a list; those it does not name have none.

    A line is ``name,label``; tabs, semicolons and spaces part them as well. The name is a key, with or without its
    ending, or a file's name alone where that is unique. A first line that names no image is the heading. Labels that
    are not all numbers are names of classes, in the order of `classes`.

    Args:
        source: Its images, classes and counts are changed.
        path: The list.
        classes: The order of class names.

    Raises: SourceError for a list that cannot be read, names no image, or an ambiguous or contradictory line.
    """
    lines = _read(path)
    positions = _positions_by_name(source)
    heading = ""
    if lines[0].name not in positions and lines[0].label not in {line.label for line in lines[1:]}:
        heading = f" (its first line is its heading: {lines[0].name}, {lines[0].label})"
        lines = lines[1:]
    known, names = _classes(path, lines, classes)
    labels: dict[int, int] = {}
    unknown = 0
    for line in lines:
        where = f"{path}, line {line.number}"
        if line.name not in positions:
            unknown += 1
            continue
        if len(positions[line.name]) > 1:
            first, second = (source.images[position].key for position in positions[line.name][:2])
            raise SourceError(f"{where}: {line.name!r} may be {first!r} or {second!r}; give their whole names")
        position = positions[line.name][0]
        label = class_index(line.label, known, where=where)
        if known.get(plain_name(line.label), label) != label:
            raise SourceError(
                f"{where}: the label {line.label!r} may be the class of this name or the one with this index, "
                f"{names[label]!r}; wanted indices, or names that are no numbers"
            )
        if labels.setdefault(position, label) != label:
            raise SourceError(f"{where}: {line.name!r} has another label further up; leave one")
    if not labels:
        raise SourceError(
            f"{path}: names none of the images; it has {lines[0].name!r}, the images are named as "
            f"{source.images[0].key!r}"
            if lines
            else f"{path}: has one line only, which names none of the images"
        )
    source.images = [
        replace(image, label=labels.get(position, UNLABELLED)) for position, image in enumerate(source.images)
    ]
    source.class_names = names
    source.label_source = f"{path}{heading}"
    source.passed_over = source.passed_over + Counter({f"names of {path.name} without an image": unknown})


def _classes(path: Path, lines: Sequence[_Line], classes: ClassRule) -> tuple[dict[str, int], list[str]]:
    """Index of each class by plain name, and their names; nothing where labels are numbers and no names are given."""
    given = classes.known_names()
    numbers = [line for line in lines if _NUMBER.fullmatch(line.label)]
    if not given and len(numbers) < len(lines):
        if len(numbers) > len(lines) / 2:
            odd = next(line for line in lines if line not in numbers)
            raise SourceError(
                f"{path}, line {odd.number}: the label is {odd.label!r}, most others are numbers; wanted one or the "
                "other"
            )
        names = {line.label for line in lines}
        if len(lines) >= _MANY and len(names) == len(lines):
            raise SourceError(
                f"{path}: every one of its {len(lines)} lines has another label, such as {lines[0].label[:60]!r}; "
                "wanted a class index or the name of a class, or a class map that names the classes"
            )
        given = classes.class_names(names, where=str(path))
    return indices_by_name(given), given


def _positions_by_name(source: Source) -> dict[str, list[int]]:
    """Images by every name they may have in a list: key and file name, with and without ending."""
    whole: dict[str, list[int]] = defaultdict(list)
    short: dict[str, list[int]] = defaultdict(list)
    for position, image in enumerate(source.images):
        key, stem = plain_name(image.key), plain_name(image.readable_key)
        # A file A.JPG is a.jpg or A in many a list.
        names = dict.fromkeys((key, stem, f"{key}.{image.extension}", f"{stem}.{image.extension}"))
        for name in names:
            whole[name].append(position)
        for name in dict.fromkeys(name.rpartition("/")[2] for name in names):
            short[name].append(position)
    # A whole name comes before the end of a longer one.
    return {**short, **whole}


def _read(path: Path) -> list[_Line]:
    try:
        if not path.is_file():
            raise SourceError(f"{path}: no such file; wanted a list with a name and a label on each line")
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise SourceError(f"{path}: is no text in UTF-8; wanted a name and a label on each line") from None
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from None
    rows = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not rows:
        raise SourceError(f"{path}: is empty; wanted a name and a label on each line")
    if rows[0][1].lstrip().startswith(("{", "[")):
        raise SourceError(f"{path}: this is JSON; wanted a name and a label on each line, such as a/1.jpg,7")
    mark = next((mark for mark in "\t;," if mark in rows[0][1]), None)
    lines: list[_Line] = []
    for number, row in rows:
        parts = _cut(row, mark)
        if len(parts) != 2 or not all(parts):
            raise SourceError(f"{path}, line {number}: {row[:80]!r} has {len(parts)} parts; wanted a name and a label")
        name = plain_name(parts[0])
        # Paths of Windows; a name that holds the sign itself is taken as it is.
        name = name.replace("\\", "/") if "/" not in name else name
        lines.append(_Line(number, name.removeprefix("./"), parts[1]))
    return lines


def _cut(row: str, mark: str | None) -> list[str]:
    """A line's parts; without a mark the last space separates them, for names may hold spaces."""
    if mark is None:
        return re.split(r"\s+(?=\S+\s*$)", row.strip(), maxsplit=1)
    try:
        return [part.strip() for part in next(csv.reader([row[:_MAX_LINE_BYTES]], delimiter=mark))]
    except csv.Error:
        return [row]
