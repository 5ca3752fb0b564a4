"""JSON with one spelling when written and no surprises when read.

Python's ``json`` accepts NaN, duplicate keys and nesting that kills the interpreter. Files that are hashed and files
that come from strangers must not depend on that.
"""

import hashlib
import json
from collections import Counter
from typing import Any

from kdcache.errors import CorruptCacheError

_SEAL = "sha256"
_MAX_NAMED = 5


def dump_json(value: Any) -> bytes:
    """The canonical bytes of a value: sorted keys, ASCII, no spaces, no NaN, a newline at the end.

    Raises: ValueError for NaN or infinity.
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.encode("ascii") + b"\n"


def load_json(data: bytes, *, where: str) -> Any:
    """Parse JSON that may have been damaged or written by somebody else.

    Args:
        data: The bytes of one JSON value.
        where: What the bytes are, for the error message.

    Raises: CorruptCacheError for anything but one strict JSON value.
    """
    try:
        return json.loads(
            data, object_pairs_hook=_unique_pairs, parse_constant=_refuse_constant, parse_float=_finite_float
        )
    except RecursionError:
        raise CorruptCacheError(f"{where}: nested too deeply; the file is damaged or hostile, restore it") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise CorruptCacheError(
            f"{where}: not strict JSON ({error}); the file is damaged, restore or rebuild it"
        ) from None


def dump_sealed(value: dict[str, Any]) -> bytes:
    """The bytes of a table with the hash of all else that it holds, under ``sha256``."""
    return dump_json({**value, _SEAL: _seal(value)})


def load_sealed(data: bytes, *, where: str) -> dict[str, Any]:
    """The table that `dump_sealed` wrote, without its hash.

    Args:
        data, where: As for `load_json`.

    Raises: CorruptCacheError, also where a value is not the one that was written.
    """
    value = load_json(data, where=where)
    if not isinstance(value, dict):
        raise CorruptCacheError(f"{where}: no table")
    recorded = value.pop(_SEAL, None)
    if recorded != _seal(value):
        raise CorruptCacheError(f"{where}: damaged or edited (the sha256 of its values is not the one in it)")
    return value


def _seal(value: dict[str, Any]) -> str:
    return hashlib.sha256(dump_json(value)).hexdigest()


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        repeated = sorted(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)[:_MAX_NAMED]
        raise ValueError(f"repeated names {repeated}")
    return unique


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a JSON number")


def _finite_float(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{text} is larger than any float")
    return number
