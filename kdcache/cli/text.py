"""Words and numbers as people read them."""

import json
from typing import Any


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


def print_json(value: Any) -> None:
    """Print a value as indented JSON."""
    print(json.dumps(value, indent=2))
