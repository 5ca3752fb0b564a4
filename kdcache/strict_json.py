"""JSON with one spelling when written and no surprises when read.

Python's ``json`` accepts NaN, duplicate keys and nesting that kills the interpreter. Files that are hashed and files
that come from strangers must not depend on that.
"""

import json
from collections import Counter
from typing import Any

from kdcache.errors import CorruptCacheError

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
