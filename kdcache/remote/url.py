"""Where a cache or images lie: a path here, or a place on object storage."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import final

from kdcache.errors import UsageError

SCHEMES = ("s3", "gs", "az")
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>.*)", re.DOTALL)


@final
@dataclass(frozen=True)
class RemoteUrl:
    """A place on object storage; it holds no credentials and no query.

    Args:
        scheme: s3, gs or az.
        bucket: Of s3 and gs; the container of az.
        key: What follows, without slashes at its ends; may be empty.
    """

    scheme: str
    bucket: str
    key: str

    @classmethod
    def parse(cls, text: str) -> "RemoteUrl":
        """Take a URL apart.

        Raises: UsageError for other schemes, credentials, queries, and keys that object storage would not keep.
        """
        match = _URL.fullmatch(text)
        shown = scrubbed(text)
        if match is None or match["scheme"].lower() not in SCHEMES:
            known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
            raise UsageError(f"{shown}: not a place that is read or written; wanted a path, or one of {known}")
        bucket, _, key = match["rest"].partition("/")
        if "@" in bucket or "?" in match["rest"] or "#" in match["rest"]:
            raise UsageError(
                f"{shown}: a URL holds a bucket and a key, no credentials and no query; credentials come from the "
                "environment (AWS_ACCESS_KEY_ID and so on), as for the service's own tools"
            )
        key = key.strip("/")
        if not bucket or any(part in ("", ".", "..") for part in key.split("/") if key):
            raise UsageError(
                f"{shown}: wanted {match['scheme'].lower()}://BUCKET/KEY, without empty parts, '.' and '..'"
            )
        return cls(match["scheme"].lower(), bucket, key)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}" + (f"/{self.key}" if self.key else "")

    def __truediv__(self, name: str) -> "RemoteUrl":
        return RemoteUrl(self.scheme, self.bucket, f"{self.key}/{name}" if self.key else name)

    @property
    def name(self) -> str:
        """Its last part."""
        return self.key.rpartition("/")[2] or self.bucket


Location = Path | RemoteUrl


def is_url(text: str) -> bool:
    """Whether a text is meant as a URL: ``scheme://...``."""
    return _URL.fullmatch(text) is not None


def location(text: str | Location) -> Location:
    """The place that a text names. Raises: UsageError as `RemoteUrl.parse`."""
    if isinstance(text, str):
        return RemoteUrl.parse(text) if is_url(text) else Path(text)
    return text


def scrubbed(text: str) -> str:
    """A text without what may be secret in its URLs: user information and queries."""
    return re.sub(r"\?[^\s\"')]*", "?…", re.sub(r"(://)[^/\s@]*@", r"\1", text))
