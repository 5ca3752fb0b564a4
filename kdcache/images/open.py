"""Open an image source from the words that name it."""

from pathlib import Path

from kdcache.errors import SourceError
from kdcache.images.classes import ClassRule
from kdcache.images.digits import SPLITS, DigitsSource
from kdcache.images.folder import FolderSource
from kdcache.images.source import Source
from kdcache.images.tars import TarSource

_TAR_ENDINGS = (".tar", ".tar.gz", ".tgz")


def open_source(text: str, classes: ClassRule | None = None) -> Source:
    """Open a source.

    Args:
        text: A folder of class folders; a tar, ``.tar.gz`` or a brace pattern of them; or ``digits``, ``digits:train``,
            ``digits:test``.
        classes: The order of class folders; None takes timm's.

    Raises: SourceError.
    """
    name, _, split = text.partition(":")
    if name == "digits" and not Path(text).exists():
        if (split or "all") not in SPLITS:
            raise SourceError(f"{text!r}: the digits have the parts {', '.join(SPLITS)}; for example digits:train")
        return DigitsSource(split or "all")
    if "://" in text:
        raise SourceError(f"{text!r}: URLs are not read; copy the data to a local disk and pass its path")
    if text.endswith(_TAR_ENDINGS):
        return TarSource(text)
    if Path(text).is_dir():
        return FolderSource(Path(text), classes)
    raise SourceError(
        f"{text!r}: no such folder; wanted a folder of class folders, tars ({', '.join(_TAR_ENDINGS)}, brace "
        "patterns) or digits"
    )
