"""Where images come from: one interface over folders, tars and the embedded digits."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from kdcache.errors import Remedy, SourceError

UNLABELLED = -1


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One image of a source, not read yet.

    Args:
        key: Unique name within the source; any characters.
        readable_key: The name one would like to see in the cache.
        extension: Under which the image is kept: lower case, without the dot, one spelling of each.
        label: Class index, or UNLABELLED.
    """

    key: str
    readable_key: str
    extension: str
    label: int


class Source(ABC):
    """Images by position. Reading is safe from several threads.

    Attributes:
        kind: folder, tar or digits.
        images: In the source's own order.
        class_names: By class index; empty where the source has no names.
        passed_over: Files or members that were found and are not taken, by reason.
        label_source: Where labels come from, in words; empty where there are none.
        in_order_only: Why images must be read in the order of the source; empty where any order will do.
    """

    kind: str
    images: Sequence[SourceImage]
    class_names: Sequence[str]
    passed_over: Counter[str] = Counter()
    label_source: str = ""
    in_order_only: str = ""

    @abstractmethod
    def read(self, position: int) -> bytes:
        """The bytes of one image file.

        Raises: SourceError when they cannot be read any more.
        """

    @abstractmethod
    def size_bytes(self, position: int) -> int:
        """Size of one image file."""

    def passed_over_text(self) -> str:
        """What was passed over: ``2 .heic, 1 beside the class folders``."""
        kinds = sorted(self.passed_over.items(), key=lambda each: (-each[1], each[0]))
        return ", ".join(f"{count} {reason}" for reason, count in kinds if count)

    @property
    def num_classes(self) -> int:
        """One more than the largest label, or the number of class names."""
        return max([len(self.class_names), *(image.label + 1 for image in self.images)])


def refuse_duplicates(places: Sequence[tuple[str, str]], *, several_tars: bool = False) -> None:
    """Refuse a source that holds one key twice.

    Args:
        places: (key, where) of every image.
        several_tars: Whether their names can keep the keys apart.

    Raises: SourceError naming both places.
    """
    seen: dict[str, str] = {}
    for key, where in places:
        if key in seen:
            raise SourceError(
                f"key {key!r} occurs twice: in {seen[key]} and in {where}; everything is joined by key, so keys must "
                "be unique: rename or remove one of them",
                remedy=Remedy.PREFIX_KEYS if several_tars and seen[key] != where else None,
            )
        seen[key] = where
