"""Words and numbers as people read them."""

import json
from typing import Any

from kdcache.reports.words import counted, size_text

__all__ = ["counted", "print_json", "size_text"]


def print_json(value: Any) -> None:
    """Print a value as indented JSON."""
    print(json.dumps(value, indent=2))
