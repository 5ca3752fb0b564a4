"""What is said where a cache does not hold what was asked for, or holds it more than once."""

from collections.abc import Mapping, Sequence

from kdcache.cache.column import Column
from kdcache.errors import KdcacheError, Remedy, TapError, UsageError

_EXAMPLE_TAPS = {
    "patch": "blocks.-1/patch",
    "prefix": "blocks.-1/prefix",
    "logits": "head/logits",
    "embedding": "head/embedding",
}


def not_held(cache: object, wanted: str, problem: str, held: list[str]) -> UsageError:
    """The error for a name that a cache does not have, or not once."""
    message = f"{cache}: {problem}; it holds {', '.join(held) or 'none'}"
    return UsageError(message, remedy=Remedy.NAME_HELD, wanted=wanted, held=held)


def ambiguous(cache: object, wanted: str, held: list[str]) -> TapError:
    """The error for something wanted that each of these would fit."""
    message = f"{cache}: {wanted} could be any of {', '.join(held)}"
    return TapError(message, remedy=Remedy.CHOOSE_COLUMN, wanted=wanted, held=held)


def no_column(
    cache: object, wanted: str, tap: str, columns: Sequence[Column], unusable: Mapping[str, KdcacheError]
) -> TapError:
    """The error for a column that a cache does not have.

    Args:
        cache: Its name, for the message.
        wanted: In words.
        tap: To be extracted; a kind stands for its usual tap.
        columns: Those there are.
        unusable: Why other groups cannot be used.
    """
    held = [column.label for column in columns]
    broken = "".join(f"; group {name} cannot be used: {error}" for name, error in unusable.items())
    return TapError(
        f"{cache}: no column for {wanted}; the cache holds {', '.join(held) or 'none'}{broken}",
        remedy=Remedy.ADD_COLUMN,
        wanted=wanted,
        held=held,
        tap=_EXAMPLE_TAPS.get(tap, tap),
    )
