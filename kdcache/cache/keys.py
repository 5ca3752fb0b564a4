"""Names that are safe in any tar, on any file system and in WebDataset, whatever the source calls its images."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence

# A member is named <key>.v00.npy or <key>.json and must fit USTAR's 100 bytes.
MAX_KEY_BYTES = 88
# WebDataset passes over names that start with two underscores.
_PART = r"(?!__)[A-Za-z0-9_-]+"
_KEY = re.compile(rf"{_PART}(?:/{_PART})*")
_HASHED_PREFIX = "kdcache-"


def is_safe_key(key: str) -> bool:
    """Whether a key may name members of our tars: no dots, no escapes, short enough, not one WebDataset skips."""
    return len(key) <= MAX_KEY_BYTES and _KEY.fullmatch(key) is not None


def safe_keys(source_keys: Sequence[str], proposed: Sequence[str]) -> list[str]:
    """One safe, unique key per source key.

    A proposal is kept where it is safe and no other proposal equals it when case is ignored; otherwise the key is
    ``kdcache-`` and the hash of the source key, so it depends on nothing but the source's own names.

    Args:
        source_keys: The source's names, unique, any characters (surrogate escapes allowed).
        proposed: For each, the readable key one would like.
    """
    uses = Counter(key.casefold() for key in proposed)
    return [
        key
        if is_safe_key(key) and uses[key.casefold()] == 1 and not key.startswith(_HASHED_PREFIX)
        else _hashed_key(source_key)
        for source_key, key in zip(source_keys, proposed, strict=True)
    ]


def keys_digest(source_keys: Iterable[str]) -> str:
    """sha256 over source keys in order, one per line; a newline inside a key is escaped."""
    digest = hashlib.sha256()
    for key in source_keys:
        digest.update(key.replace("\\", "\\\\").replace("\n", "\\n").encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


def labels_digest(labels: Iterable[int]) -> str:
    """sha256 over labels in order, one per line in decimal."""
    return hashlib.sha256("".join(f"{label}\n" for label in labels).encode()).hexdigest()


def _hashed_key(source_key: str) -> str:
    return _HASHED_PREFIX + hashlib.sha256(source_key.encode("utf-8", "surrogateescape")).hexdigest()[:40]
