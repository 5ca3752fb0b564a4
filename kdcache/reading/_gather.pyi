from typing import Any

STREAMING: int

def gather(
    rows: Any,
    starts: Any,
    bases: Any,
    num_views: int,
    stride: int,
    first: int,
    fields: tuple[tuple[int, int, Any], ...],
) -> int: ...
def read(pieces: Any, out: Any) -> int: ...
def are_unchanged(rows: Any, starts: Any, descriptors: Any, identities: Any) -> bool: ...
def take(rows: Any, starts: Any, offsets: Any, values: Any, out: Any) -> bool: ...
