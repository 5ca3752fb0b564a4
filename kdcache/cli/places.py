"""Flags that name a place: a path, or for some also object storage. Never a folder called ``s3:``."""

from pathlib import Path

from kdcache.errors import UsageError
from kdcache.remote.url import Location, is_url, location, scrubbed

PLACE_HELP = "folder or s3://, gs://, az:// URL"


def place(text: str) -> Location:
    """A path, or a URL of object storage. Raises: UsageError."""
    return location(text)


def local_path(text: str) -> Path:
    """A path. Raises: UsageError for a URL."""
    if is_url(text):
        raise UsageError(f"{scrubbed(text)}: this is kept on a local disk; give a path (caches and --data may be URLs)")
    return Path(text)
