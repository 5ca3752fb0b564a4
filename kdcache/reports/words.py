"""Numbers as people read them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdcache.analysis.result import Layer, Spread

NOTHING = "\N{EN DASH}"


def size_text(size_bytes: float) -> str:
    """``19.3 MB``: decimal units, three significant digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.3g} {unit}" if unit != "B" else f"{size_bytes:.0f} B"
        size_bytes /= 1000
    return f"{size_bytes:.3g} TB"


def counted(count: int, word: str) -> str:
    """``1 shard``, ``3 shards``."""
    return f"{count} {word}" + ("" if count == 1 else "s")


def share_text(share: float | None) -> str:
    """``3.1 %`` of 0.031."""
    return NOTHING if share is None else f"{100 * share:.1f} %"


def number_text(value: float | None) -> str:
    """Four significant digits, without an exponent from a thousandth to a hundred million."""
    if value is None:
        return NOTHING
    if value and not 1e-3 <= abs(value) < 1e8:
        return f"{value:.3e}"
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def levels_text(values: Mapping[str, float] | None, levels: tuple[str, ...]) -> str:
    """``14 / 34 / 61 / 121``: whole numbers at the levels asked for."""
    if values is None:
        return NOTHING
    return " / ".join(f"{values[level]:.0f}" if level in values else NOTHING for level in levels)


def p99_text(spreads: "Mapping[str, Spread] | None", levels: tuple[str, ...]) -> str:
    """The same of the 99th percentile over images."""
    return levels_text(None if spreads is None else {level: each.p99 for level, each in spreads.items()}, levels)


def layer_text(layer: "Layer") -> str:
    """``blocks.23/patch (fp16)``: the tap, and its codec where it has one."""
    return layer.name + (f" ({layer.codec})" if layer.codec else "")


def shortened(text: str, length: int = 40) -> str:
    """The text, its middle left out if it is longer."""
    if len(text) <= length:
        return text
    head = (length - 1) // 2
    return f"{text[:head]}…{text[head + 1 - length :]}"
