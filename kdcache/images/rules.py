"""How a source is read where its names leave a choice: keys and images of tars, labels, the order of classes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from kdcache.images.classes import ClassRule

TarKeys = Literal["first-dot", "last-dot"]
KeyPrefix = Literal["none", "tar"]
# What labels can be taken from besides members: the folder of an image, or nothing.
FOLDER, NO_LABELS = "folder", "none"
# Which images a source has and under which keys; a cache records these, so that it finds its images again.
_OF_KEYS = ("tar_keys", "image_member", "key_prefix")


@dataclass(frozen=True, kw_only=True)
class SourceRules:
    """How to read a source.

    Args:
        classes: The order of classes that have names.
        tar_keys: Where the key of a member ends: ``first-dot`` of the last path component (WebDataset's rule), or
            ``last-dot``, for names that hold dots themselves.
        image_member: Which image of a sample is taken, by its extension (``jpg``, ``left.png``) or by what stands
            between key and extension (``left``); None takes the only one, or the only one without further dots.
        label_member: Where labels of tars are: an extension (``cls``), a field of a JSON member (``json:label``),
            ``folder`` or ``none``; None finds out and refuses where there is a choice.
        key_prefix: ``tar`` puts the name of its tar in front of every key, for tars that all count from 0.
        labels: A file with a name and a label on each line; takes the place of all other labels.
    """

    classes: ClassRule = field(default_factory=ClassRule)
    tar_keys: TarKeys = "first-dot"
    image_member: str | None = None
    label_member: str | None = None
    key_prefix: KeyPrefix = "none"
    labels: Path | None = None

    def __post_init__(self) -> None:
        for name, kind in (("tar_keys", TarKeys), ("key_prefix", KeyPrefix)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name} must be one of {', '.join(get_args(kind))}, got {getattr(self, name)!r}")
        for name in ("image_member", "label_member"):
            value = getattr(self, name)
            if value is not None and not value.strip("."):
                raise ValueError(f"{name} must be an extension such as {'jpg' if name[0] == 'i' else 'cls'}")

    def recorded(self) -> dict[str, str]:
        """What a cache has to remember to find its images again: the settings of keys that are not the defaults."""
        values = {name: getattr(self, name) for name in _OF_KEYS}
        return {name: value for name, value in values.items() if value not in (None, "none", "first-dot")}


def recorded_rules(recorded: Mapping[str, str]) -> SourceRules:
    """Rules that find the images of a cache again; labels are not read, the cache has them.

    Args:
        recorded: As in the cache's source facts.
    """
    known = {name: value for name, value in recorded.items() if name in _OF_KEYS}
    return replace(SourceRules(label_member=NO_LABELS), **known)
