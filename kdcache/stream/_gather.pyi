from typing import Any

STREAMING: int

def map_file(descriptor: int, size: int) -> int: ...
def unmap(address: int, size: int) -> None: ...
def populate(address: int, size: int) -> bool: ...
def gather(
    rows: Any,
    starts: Any,
    bases: Any,
    offsets: Any | None,
    num_views: int,
    stride: int,
    first: int,
    fields: tuple[tuple[int, int, Any], ...],
) -> int: ...
