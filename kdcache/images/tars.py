"""WebDataset tars of images: which members are the image of a sample and its label."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from os.path import commonpath
from pathlib import Path
from typing import Any, NamedTuple

from kdcache.errors import Remedy, SourceError
from kdcache.images.archives import Archives
from kdcache.images.decode import EXTENSIONS, image_extension
from kdcache.images.labels import (
    JSON,
    LABEL_EXTENSIONS,
    MAX_JSON_BYTES,
    MAX_LABEL_BYTES,
    LabelChoices,
    choose_labels,
    wanted_values,
)
from kdcache.images.members import Member, members
from kdcache.images.remote_tars import TarFile, in_order_only
from kdcache.images.rules import FOLDER, NO_LABELS, SourceRules
from kdcache.images.source import Source, SourceImage, refuse_duplicates

_MAX_NAMED = 3
_APART = "labels without an image"
_TAR_SUFFIXES = (".tar", ".gz", ".tgz", ".bz2", ".xz")
_ARCHIVES = ("tar", "gz", "tgz", "zip", "bz2", "xz", "zst", "7z", "rar")


class _Place(NamedTuple):
    """Where an image's bytes lie."""

    tar: int
    offset: int
    size_bytes: int


class _Sample(NamedTuple):
    """The members of a sample that count."""

    key: str
    image: Member
    labels: list[Member]


class TarSource(Source):
    """Images of one or more tars, read in place; compressed ones are first unpacked into a temporary file.

    A sample is all members that share a key (see SourceRules): one image, and a label if there is one. Every other
    member is counted by the reason why it is not taken, hidden ones included.

    Args:
        paths: The tars.
        rules: How keys, images and labels are found.

    Raises: SourceError for damaged tars, duplicate keys, samples that are not adjacent or have several images or labels
        to choose from, and labels that are no class index; DiskFullError where a tar cannot be unpacked.
    """

    kind = "tar"

    def __init__(self, paths: Sequence[TarFile], rules: SourceRules | None = None) -> None:
        rules = rules or SourceRules()
        self.passed_over = Counter[str]()
        self._archives = Archives(paths)
        self.in_order_only = in_order_only(paths)
        reader = _TarReader(self._archives, rules, self.passed_over)
        prefixes = _prefixes(paths) if rules.key_prefix == "tar" else [""] * len(paths)
        images: list[SourceImage] = []
        choices: list[LabelChoices] = []
        self._places: list[_Place] = []
        for number, prefix in enumerate(prefixes):
            for sample in reader.samples(number):
                key = prefix + sample.key
                images.append(SourceImage(key, key, image_extension(sample.image.name) or "", -1))
                self._places.append(_Place(number, sample.image.offset, sample.image.size_bytes))
                choices.append(reader.choices(number, sample))
        if not images:
            found = f"; passed over: {self.passed_over_text()}" if self.passed_over else ""
            wanted = f"image member {rules.image_member!r}" if rules.image_member else "images"
            raise SourceError(f"{paths[0]}: no {wanted} in these tars (extensions {', '.join(EXTENSIONS)}){found}")
        keys = [image.key for image in images]
        places = [str(paths[place.tar]) for place in self._places]
        refuse_duplicates(list(zip(keys, places, strict=True)), several_tars=len(paths) > 1)
        labels = choose_labels(choices, rules)
        if labels.class_names and not labels.used and rules.label_member is None:
            self._refuse_labels_apart(paths[0])
        self.passed_over.update(reader.unused_labels(labels.used))
        self.images = [
            SourceImage(image.key, image.readable_key, image.extension, label)
            for image, label in zip(images, labels.indices, strict=True)
        ]
        self.class_names, self.label_source = list(labels.class_names), labels.source

    def _refuse_labels_apart(self, path: TarFile) -> None:
        """Refuse folders as classes where labels are there too: ``7/label.cls`` beside ``7/image.jpg``."""
        if count := self.passed_over[_APART]:
            raise SourceError(
                f"{path}: {count} label members have the key of no image, and the folders of the images may be their "
                "classes or not; image and label of a sample have one name, as 7/x.jpg and 7/x.cls",
                remedy=Remedy.CHOOSE_LABELS,
                choices=f"{FOLDER}, {NO_LABELS}",
            )

    def read(self, position: int) -> bytes:
        place = self._places[position]
        data = self._archives.read(place.tar, place.offset, place.size_bytes)
        if len(data) != place.size_bytes:
            path = self._archives.paths[place.tar]
            raise SourceError(f"{path}: became shorter while it was read; restore it and run the command again")
        return data

    def size_bytes(self, position: int) -> int:
        return self._places[position].size_bytes


class _TarReader:
    """Groups the members of tars into samples.

    Args:
        archives: The tars.
        rules: How keys, images and labels are found.
        passed_over: Gets what is not taken, by reason.
    """

    def __init__(self, archives: Archives, rules: SourceRules, passed_over: "Counter[str]") -> None:
        self._archives, self._rules, self._passed_over = archives, rules, passed_over
        self._label_members = Counter[str]()
        wanted = rules.label_member
        if wanted in (NO_LABELS, FOLDER):
            self._extensions: tuple[str, ...] = ()
        elif wanted is None:
            self._extensions = (*LABEL_EXTENSIONS, JSON)
        else:
            self._extensions = (wanted.partition(":")[0].strip(".").lower(),)

    def unused_labels(self, used: str) -> "Counter[str]":
        """Members that could have held labels and were not needed, by extension."""
        return Counter({f".{name}": count for name, count in self._label_members.items() if name != used})

    def samples(self, number: int) -> Iterator[_Sample]:
        """The samples of a tar; one is complete when the next key begins."""
        path = self._archives.paths[number]
        done: set[str] = set()
        found = members(self._archives, number, self._passed_over)
        for key, group in groupby(found, key=lambda member: split_member_name(member.name, self._rules)[0]):
            images: list[Member] = []
            labels: list[Member] = []
            for member in group:
                self._sort_in(member, images, labels)
            if not images and not labels:
                continue
            if key in done:
                raise SourceError(
                    f"{path}: members of {key!r} are not adjacent, so that they are no sample; pack the tar again "
                    "with its members sorted by name"
                )
            done.add(key)
            image = self._one_image(path, key, images) if images else None
            if image is not None:
                yield _Sample(key, image, labels)
            elif not images:
                self._passed_over[_APART] += 1

    def choices(self, number: int, sample: _Sample) -> LabelChoices:
        """What may be the label of a sample."""
        path = self._archives.paths[number]
        by_extension: dict[str, list[Member]] = {}
        for member in sample.labels:
            by_extension.setdefault(_last(member.name), []).append(member)
        self._label_members.update(by_extension.keys())
        if LABEL_EXTENSIONS[0] in by_extension:
            by_extension = {LABEL_EXTENSIONS[0]: by_extension[LABEL_EXTENSIONS[0]]}
        values: dict[str, Any] = {}
        for extension, found in by_extension.items():
            member = self._one_label(path, sample.key, extension, found)
            limit = MAX_JSON_BYTES if extension == JSON else MAX_LABEL_BYTES
            data = self._archives.read(number, member.offset, min(member.size_bytes, limit))
            try:
                values |= wanted_values(extension, data, self._rules)
            except ValueError as error:
                raise SourceError(f"{path}: {member.name} {error}") from None
        folder = "/".join(part for part in sample.image.name.split("/")[:-1] if part not in ("", "."))
        return LabelChoices(path, sample.key, folder, values)

    def _sort_in(self, member: Member, images: list[Member], labels: list[Member]) -> None:
        last = _last(member.name)
        if last in self._extensions or self._is_named_label(member):
            labels.append(member)
        elif image_extension(member.name):
            images.append(member)
        elif last in _ARCHIVES:
            self._passed_over[f"archives .{last}"] += 1
        else:
            self._passed_over[f".{last}" if last else "without extension"] += 1

    def _is_named_label(self, member: Member) -> bool:
        """Whether the wanted label is all that follows the key, as in ``output.cls``."""
        return split_member_name(member.name, self._rules)[1].lower() in self._extensions

    def _one_image(self, path: TarFile, key: str, images: list[Member]) -> Member | None:
        """The image of a sample: ``x.jpg`` before ``x.depth.png``, where no rule says which.

        Raises: SourceError where that does not decide.
        """
        wanted = self._rules.image_member
        if wanted is not None:
            chosen = _matching(images, wanted, self._rules)
            others = len(images) - min(len(chosen), 1)
            self._passed_over.update(["images other than the wanted member"] * others)
            if len(chosen) <= 1:
                return chosen[0] if chosen else None
        else:
            chosen = [member for member in images if "." not in split_member_name(member.name, self._rules)[1]]
            if len(images) == 1 or len(chosen) == 1:
                self._passed_over.update(["further images of a sample"] * (len(images) - 1))
                return (chosen or images)[0]
        endings = list(dict.fromkeys(split_member_name(each.name, self._rules)[1] for each in chosen or images))
        if chosen and len(endings) > 1:
            raise SourceError(
                f"{path}: {key!r} has {len(chosen)} images: {_named(chosen)}; one is taken of each sample",
                remedy=Remedy.CHOOSE_IMAGE,
                choices=", ".join(endings),
            )
        raise SourceError(
            f"{path}: {len(images)} images share the key {key!r}: {_named(images)}; a key ends at the first dot of a "
            "name (WebDataset's rule)",
            remedy=Remedy.KEYS_TO_LAST_DOT,
            choices=", ".join(endings[:_MAX_NAMED]) + (", …" if len(endings) > _MAX_NAMED else ""),
        )

    def _one_label(self, path: TarFile, key: str, extension: str, labels: list[Member]) -> Member:
        plain = [each for each in labels if split_member_name(each.name, self._rules)[1].lower() == extension]
        if len(labels) == 1 or (len(plain) == 1 and self._rules.label_member is not None):
            return (plain or labels)[0]
        endings = list(dict.fromkeys(split_member_name(each.name, self._rules)[1] for each in labels))
        raise SourceError(
            f"{path}: {key!r} has {len(labels)} labels: {_named(labels)}; one is taken of each sample",
            remedy=Remedy.CHOOSE_LABELS,
            choices=", ".join([*endings, NO_LABELS]),
        )


def split_member_name(member: str, rules: SourceRules) -> tuple[str, str]:
    """Sample key and extension, parted at a dot of the last path component."""
    folder, _, name = member.rpartition("/")
    if rules.tar_keys == "first-dot":
        stem, _, extension = name.partition(".")
    else:
        stem, dot, extension = name.rpartition(".")
        stem = stem if dot else extension
        extension = extension if dot else ""
    return (f"{folder}/{stem}" if folder else stem), extension


def _prefixes(tars: Sequence[TarFile]) -> list[str]:
    """For each tar its name without ending, with the folders in which several tars differ."""
    paths = [tar.absolute() if isinstance(tar, Path) else Path("/", tar.folder.url.key, tar.name) for tar in tars]
    folders = [path.parent for path in paths]
    shared = commonpath(folders)
    names: list[str] = []
    for path, folder in zip(paths, folders, strict=True):
        name = path.name
        while Path(name).suffix.lower() in _TAR_SUFFIXES:
            name = Path(name).stem
        names.append(f"{(folder.relative_to(shared) / name).as_posix()}/")
    return names


def _matching(images: list[Member], wanted: str, rules: SourceRules) -> list[Member]:
    """The images whose ending is, ends with or begins with what is wanted; those that are it come first."""
    wanted = _plain(wanted)
    endings = [_plain(split_member_name(each.name, rules)[1]) for each in images]
    exact = [each for each, ending in zip(images, endings, strict=True) if ending == wanted]
    return exact or [
        each
        for each, ending in zip(images, endings, strict=True)
        if f".{ending}.".endswith(f".{wanted}.") or ending.startswith(f"{wanted}.")
    ]


def _plain(ending: str) -> str:
    """Lower case, with one spelling of the last part."""
    front, dot, last = ending.strip(".").lower().rpartition(".")
    return f"{front}{dot}{image_extension(last) or last}"


def _last(name: str) -> str:
    stem, _, last = name.rpartition("/")[2].rpartition(".")
    return last.lower() if stem else ""


def _named(some: list[Member]) -> str:
    names = [member.name for member in some]
    return ", ".join(names[:_MAX_NAMED]) + (", …" if len(names) > _MAX_NAMED else "")
