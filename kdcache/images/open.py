"""Open an image source from the words that name it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from kdcache.errors import SourceError
from kdcache.images.classes import plain_name
from kdcache.images.digits import SPLITS, DigitsSource
from kdcache.images.folder import FolderSource
from kdcache.images.label_file import take_labels
from kdcache.images.paths import expand_paths, split_list
from kdcache.images.remote_tars import find_remote_tars
from kdcache.images.rules import NO_LABELS, SourceRules, recorded_rules
from kdcache.images.source import UNLABELLED, Source
from kdcache.images.tars import TarSource


def open_source(text: str, rules: SourceRules | None = None) -> Source:
    """Open a source.

    Args:
        text: A folder of class folders or of images alone; one or several tars, plain or compressed by gzip, bzip2 or
            xz (see `expand_paths` for globs, braces and lists); URLs of plain tars on object storage; or ``digits``,
            ``digits:train``, ``digits:test``.
        rules: How it is read where its names leave a choice.

    Raises: SourceError, DiskFullError.
    """
    rules = rules or SourceRules()
    if rules.labels is None:
        return _open(text, rules)
    source = _open(text, replace(rules, label_member=NO_LABELS))
    take_labels(source, rules.labels, rules.classes)
    return source


def open_again(text: str | None, recorded: Mapping[str, str]) -> Source | None:
    """Open the source of a cache again, under the keys that the cache knows; labels are not read, the cache has them.

    Args:
        text: As for `open_source`; None for none.
        recorded: The rules among the cache's source facts.

    Raises: SourceError, DiskFullError.
    """
    return None if text is None else open_source(text, recorded_rules(recorded))


def open_for_classes(text: str, class_names: Sequence[str], rules: SourceRules | None = None) -> Source:
    """Open labelled images for a model whose classes are known: class folders get the indices that it knows.

    Args:
        text: As for `open_source`. Folders of some of the classes are enough.
        class_names: By index; empty where the model's classes have no names.
        rules: How it is read; a class map in them comes before `class_names`.

    Raises: SourceError, also for a class that the model does not know; DiskFullError.
    """
    rules = rules or SourceRules()
    if rules.classes.class_map is None:
        rules = replace(rules, classes=replace(rules.classes, names=tuple(class_names)))
    source = open_source(text, rules)
    found, wanted = (list(map(plain_name, names)) for names in (source.class_names, class_names))
    if found and wanted and found != wanted:
        raise SourceError(f"{text}: {_difference(source.class_names, class_names)}; labels would not mean the same")
    return source


def _difference(found: Sequence[str], wanted: Sequence[str]) -> str:
    """How two lists of classes differ."""
    parts = [
        f"{', '.join(repr(name) for name in names[:3])}{', …' if len(names) > 3 else ''} {what}"
        for names, what in (
            ([name for name in found if name not in set(wanted)], "is no class of the model"),
            ([name for name in wanted if name not in set(found)], "of the model is missing"),
        )
        if names
    ]
    return " and ".join(parts) or "its classes are those of the model in another order"


def _open(text: str, rules: SourceRules) -> Source:
    name, _, split = text.partition(":")
    if name == "digits" and not Path(text).exists():
        if (split or "all") not in SPLITS:
            raise SourceError(f"{text!r}: the digits have the parts {', '.join(SPLITS)}; for example digits:train")
        _refuse_rules_of_tars(text, "the digits", rules)
        if rules.classes.class_map is not None:
            raise SourceError(f"{text!r}: the digits have classes of their own; leave out the class map")
        return _unless_unlabelled(DigitsSource(split or "all"), rules)
    if text.startswith("pipe:"):
        raise SourceError(f"{text!r}: commands are not run; write their output to a file and pass its path")
    if "://" in text:
        return TarSource(find_remote_tars(split_list(text)), rules)
    paths = expand_paths(text)
    folders = [path for path in paths if path.is_dir()]
    if len(paths) == 1 and folders:
        _refuse_rules_of_tars(text, "a folder", rules)
        is_labelled = rules.label_member != NO_LABELS
        return _unless_unlabelled(FolderSource(paths[0], rules.classes, is_labelled=is_labelled), rules)
    if folders:
        parents = {path.absolute().parent for path in folders}
        meant = f"pass {parents.pop()}" if len(parents) == 1 and len(folders) == len(paths) else "pass one folder"
        raise SourceError(
            f"{text!r}: names {len(paths)} paths, of which {folders[0]} is a folder; images of several folders are "
            f"read from the folder that holds them, or links to them: {meant}"
        )
    return TarSource(_readable(paths), rules)


def _readable(paths: Sequence[Path]) -> Sequence[Path]:
    for path in paths:
        if not path.is_file():
            raise SourceError(f"{path}: is neither a file nor a folder; wanted tars or a folder of images")
        if not os.access(path, os.R_OK):
            raise SourceError(f"{path}: no permission to read it")
    return paths


def _refuse_rules_of_tars(text: str, what: str, rules: SourceRules) -> None:
    """Refuse rules that would be ignored."""
    ignored = [name.replace("_", " ") for name in rules.recorded()]
    if rules.label_member not in (None, NO_LABELS):
        ignored.append("label member")
    if ignored:
        raise SourceError(f"{text!r}: is {what}, and {', '.join(ignored)} would be ignored: leave out what is for tars")


def _unless_unlabelled(source: Source, rules: SourceRules) -> Source:
    """Take away the labels where none are wanted."""
    if rules.label_member == NO_LABELS:
        source.images = [replace(image, label=UNLABELLED) for image in source.images]
        source.class_names, source.label_source = [], ""
    return source
