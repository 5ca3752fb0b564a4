"""Tars on object storage: named as local ones are, and fetched whole, one after another, when they are read."""

import fnmatch
import glob
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import final

from braceexpand import UnbalancedBracesError, braceexpand  # pyright: ignore[reportAttributeAccessIssue]

from kdcache.errors import SourceError, UsageError
from kdcache.images.classes import natural_order
from kdcache.remote import Entry, Lease, RemoteFolder, RemoteUrl, Staging
from kdcache.remote.staging import SIZE_VARIABLE

_MAX_TARS = 100_000


@final
@dataclass(frozen=True)
class RemoteTar:
    """A tar on object storage; its text is its URL.

    Args:
        folder: That it lies in.
        name: Its name there.
        entry: What the service says of it.
    """

    folder: RemoteFolder
    name: str
    entry: Entry

    def __str__(self) -> str:
        return str(self.folder.url / self.name)

    def hold(self) -> Lease:
        """Fetch it whole, unless it is here, and hold it. Raises: StorageError, DiskFullError."""
        return self.folder.hold_as_is(self.name, self.entry)


TarFile = Path | RemoteTar


def find_remote_tars(parts: Sequence[str]) -> list[RemoteTar]:
    """The tars behind URLs, in their order; those of a pattern in natural order.

    Args:
        parts: URLs; the last part of each may hold braces, ``*`` and ``[...]``.

    Raises: SourceError for what is missing, named twice, or no URL of object storage; StorageError.
    """
    staging = Staging.default()
    listed: dict[RemoteUrl, RemoteFolder] = {}
    tars: list[RemoteTar] = []
    for text in _expanded(parts):
        url = _parsed(text)
        parent = RemoteUrl(url.scheme, url.bucket, url.key.rpartition("/")[0])
        folder = listed.setdefault(parent, RemoteFolder(parent, staging))
        tars += _named(folder, url.name, text)
    seen: set[str] = set()
    for tar in tars:
        if str(tar) in seen:
            raise SourceError(f"{tar}: is named twice; name it once")
        seen.add(str(tar))
    return tars


def in_order_only(tars: Sequence[TarFile]) -> str:
    """Why tars must be read one after another; empty where they may be read in any order.

    Each image drawn from another tar would have that fetched again.
    """
    remote = [tar for tar in tars if isinstance(tar, RemoteTar)]
    if not remote:
        return ""
    total, staging = sum(tar.entry.size_bytes for tar in remote), remote[0].folder.staging
    if total <= staging.max_bytes:
        return ""
    return (
        f"{remote[0]}: the tars take {total:,} bytes, {staging.root} may hold {staging.max_bytes:,}, so that they are "
        f"fetched one after another: read them in their own order (order=source), or allow more with {SIZE_VARIABLE}"
    )


def _expanded(parts: Sequence[str]) -> list[str]:
    texts: list[str] = []
    for part in parts:
        try:
            texts += islice(braceexpand(part), _MAX_TARS + 1)
        except UnbalancedBracesError:
            raise SourceError(f"{part}: braces are not balanced; a pattern looks like x-{{000..127}}.tar") from None
    if len(texts) > _MAX_TARS:
        raise SourceError(f"{parts[0]}: names more than {_MAX_TARS:,} files")
    return texts


def _parsed(text: str) -> RemoteUrl:
    try:
        url = RemoteUrl.parse(text)
    except UsageError as error:
        raise SourceError(str(error)) from None
    if not url.key or glob.has_magic(url.key.rpartition("/")[0]):
        raise SourceError(f"{url}: wanted tars of one folder, such as {url.scheme}://BUCKET/train/x-*.tar")
    return url


def _named(folder: RemoteFolder, name: str, text: str) -> list[RemoteTar]:
    # One listing tells all the tars of a folder; asking for each would take a request a tar.
    there = folder.entries("")
    if name in there:
        return [RemoteTar(folder, name, there[name])]
    matches = natural_order([each for each in there if fnmatch.fnmatchcase(each, name)]) if glob.has_magic(name) else []
    if not matches:
        raise SourceError(f"{text}: no such object; images are read from tars there, not from folders; check the URL")
    return [RemoteTar(folder, match, there[match]) for match in matches]
