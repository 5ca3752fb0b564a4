"""Class indices of the images of tars: out of text members, fields of JSON members, or the folders they lie in."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from kdcache.errors import Remedy, SourceError
from kdcache.images.classes import indices_by_name, natural_order, plain_name
from kdcache.images.remote_tars import TarFile
from kdcache.images.rules import FOLDER, NO_LABELS, SourceRules
from kdcache.images.source import UNLABELLED
from kdcache.images.splits import are_splits

# No data set has as many; a date or an identifier is larger.
MAX_CLASSES = 1_000_000
MAX_LABEL_BYTES = 256
MAX_JSON_BYTES = 1 << 20
_MAX_DIGITS = 20
_WHOLE = re.compile(r"([0-9]+)(?:\.0*)?")
JSON = "json"
# Text members that hold a label, the first before the others.
LABEL_EXTENSIONS = ("cls", "class", "label", "target")
# Fields of JSON members that hold one, as img2dataset, Hugging Face's and timm's writers name them.
LABEL_FIELDS = (
    "label", "cls", "class", "target", "class_id", "class_idx", "class_index", "class_label", "label_id", "label_idx",
    "label_index", "category_id", "category", "fine_label", "coarse_label",
)  # fmt: skip


class LabelChoices(NamedTuple):
    """What may be the label of one image.

    Args:
        path: Of its tar.
        key: Its key there.
        folder: In which the image lies in its tar, without ``.``; empty for none.
        values: What members hold: by extension (``cls``) the text, by field (``json:label``) the value.
    """

    path: TarFile
    key: str
    folder: str
    values: Mapping[str, Any]

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.path}: {self.key}"


@dataclass(frozen=True)
class Labels:
    """The labels of a source.

    Args:
        indices: For each image its class index, or UNLABELLED.
        class_names: By index; empty where there are none.
        source: Where they come from, in words; empty for none.
        used: The extension of the members that were used; empty for none.
    """

    indices: Sequence[int]
    class_names: Sequence[str] = ()
    source: str = ""
    used: str = ""


def wanted_values(extension: str, data: bytes, rules: SourceRules) -> dict[str, Any]:
    """What a member offers as a label; empty where it offers none.

    Args:
        extension: Of the member, lower case, its last part.
        data: Its bytes.
        rules: Which label is wanted.

    Raises: ValueError for a JSON member that cannot be read, where a field of it is wanted.
    """
    if extension != JSON:
        return {extension: data.decode("utf-8", "replace").strip()}
    kind, _, field = (rules.label_member or "").partition(":")
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        if kind == JSON:
            raise ValueError("is no readable JSON") from None
        return {}
    if not isinstance(values, dict):
        values = {"": values}
    fields = (field,) if field else LABEL_FIELDS
    # A missing label is often written as null.
    return {f"{JSON}:{name}": values[name] for name in fields if values.get(name) is not None}


def choose_labels(choices: Sequence[LabelChoices], rules: SourceRules) -> Labels:
    """Find out where labels are, and read them.

    ``.cls`` comes before all else, members before folders.

    Args:
        choices: Of each image.
        rules: Which labels are wanted, and the order of classes with names.

    Raises: SourceError where there is a choice that nobody has made, and for a label that is no class index.
    """
    names = _names(choices, rules)
    if rules.label_member == NO_LABELS:
        return Labels([UNLABELLED] * len(choices))
    if rules.label_member == FOLDER:
        return _of_folders(choices, rules, is_asked=True)
    if not names:
        if rules.label_member is not None:
            raise SourceError(
                f"no image has a label in {rules.label_member}; wanted an extension such as cls, a field such as "
                f"json:label, {FOLDER} or {NO_LABELS}"
            )
        return _of_folders(choices, rules, is_asked=False)
    class_names = rules.classes.known_names()
    known = indices_by_name(class_names)
    name = names[0] if len(names) == 1 or names[0] == LABEL_EXTENSIONS[0] else _the_only(choices, names, known)
    extension, _, field = name.partition(":")
    ending = f".{extension}, field {field}," if field else f".{extension}"
    indices = [
        class_index(each.values[name], known, where=each.where + ending) if name in each.values else UNLABELLED
        for each in choices
    ]
    source = f"the field {field} of .json members" if field else f".{extension} members"
    return Labels(indices, class_names, source, extension)


def class_index(value: Any, known: Mapping[str, int], *, where: str) -> int:
    """A label as a class index.

    Args:
        value: As it was found: a number, or text.
        known: Index of each class by its plain name, where classes have names.
        where: For the message.

    Raises: SourceError for anything that is no index of a class.
    """
    limit = len(known) or MAX_CLASSES
    index = _as_index(value)
    if index is None and isinstance(value, str) and plain_name(value) in known:
        return known[plain_name(value)]
    if index is None or index >= limit:
        is_name = isinstance(value, str) and not known and any(letter.isalpha() for letter in value)
        raise SourceError(
            f"{where} holds {value!r}, wanted a class index such as 17 (below {limit:,})"
            + (" or the name of a class" if known else ""),
            remedy=Remedy.NAME_CLASSES if is_name else None,
        )
    return index


def _as_index(value: Any) -> int | None:
    # Tables with a missing label keep the others as 3.0.
    if isinstance(value, str) and len(value) < _MAX_DIGITS and (number := _WHOLE.fullmatch(value)):
        return int(number[1])
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0 and float(value).is_integer():
        return int(value)
    return None


def _names(choices: Sequence[LabelChoices], rules: SourceRules) -> list[str]:
    """Where labels may be, those of text members first."""
    found = {name for each in choices for name in each.values}
    fields = [f"{JSON}:{field}" for field in LABEL_FIELDS]
    names = [name for name in (*LABEL_EXTENSIONS, *fields) if name in found] + sorted(
        name for name in found if name not in LABEL_EXTENSIONS and name not in fields
    )
    if names and names[0] == LABEL_EXTENSIONS[0] and rules.label_member is None:
        return names[:1]
    return names


def _the_only(choices: Sequence[LabelChoices], names: Sequence[str], known: Mapping[str, int]) -> str:
    """The one of several places that holds class indices, or that all others agree with."""
    columns: dict[str, list[int | None]] = {}
    for name in names:
        values = [each.values.get(name) for each in choices]
        indices = [
            known.get(plain_name(value)) if isinstance(value, str) and plain_name(value) in known else _as_index(value)
            for value in values
        ]
        if all(index is not None or value is None for index, value in zip(indices, values, strict=True)):
            columns[name] = indices
    first = next(iter(columns), None)
    if first is None or any(column != columns[first] for column in columns.values()):
        shown = ", ".join(f"{name}={_example(choices, name)!r}" for name in columns or names)
        raise SourceError(
            f"{choices[0].where}: the label may be any of {shown}",
            remedy=Remedy.CHOOSE_LABELS,
            choices=", ".join([*(columns or names), NO_LABELS]),
        )
    return first


def _example(choices: Sequence[LabelChoices], name: str) -> Any:
    return next(each.values[name] for each in choices if name in each.values)


def _of_folders(choices: Sequence[LabelChoices], rules: SourceRules, *, is_asked: bool) -> Labels:
    """A class for each folder, below the folders that all images share."""
    none = Labels([UNLABELLED] * len(choices))
    parts = [tuple(each.folder.split("/")) if each.folder else () for each in choices]
    inside = {each for each in parts if each}
    if not inside:
        if is_asked:
            raise SourceError(f"{choices[0].where}: no image lies in a folder of its tar, so that none is a class")
        return none
    depth = 0
    while len({each[: depth + 1] for each in inside}) == 1 and all(len(each) > depth + 1 for each in inside):
        depth += 1
    folders = [each[depth] if len(each) > depth else "" for each in parts]
    classes = natural_order({each for each in folders if each})
    if not is_asked:
        if len(classes) == 1 and all(folders):
            return none
        if not all(folders):
            beside = folders.index("")
            raise SourceError(
                f"{choices[beside].where}: lies beside the folders {', '.join(classes[:3])} of its tar, so that these "
                "may be classes or not",
                remedy=Remedy.CHOOSE_LABELS,
                choices=f"{FOLDER}, {NO_LABELS}",
            )
        if are_splits(classes):
            raise SourceError(
                f"{choices[0].where}: the folders of these tars are the splits {', '.join(classes)}, not classes; pack "
                "a tar of each",
                remedy=Remedy.CHOOSE_LABELS,
                choices=f"{FOLDER}, {NO_LABELS}",
            )
    names = rules.classes.class_names(classes, where=choices[0].where)
    index = indices_by_name(names)
    return Labels([index.get(plain_name(each), UNLABELLED) for each in folders], names, "folders in the tars")
