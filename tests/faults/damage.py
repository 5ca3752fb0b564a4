"""What happens to the bytes of a file, by kind; every draw comes from the generator given."""

from collections.abc import Callable
from pathlib import Path
from random import Random

_PAGE = 4096
_SECTOR = 512
Damage = Callable[[bytes, Random, bytes], "bytes | None"]


def _flip(data: bytes, random: Random, other: bytes) -> bytes:
    at, changed = random.randrange(len(data)), bytearray(data)
    changed[at] ^= 1 << random.randrange(8)
    return bytes(changed)


def _overwrite(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new[: len(data) - at] + data[at + len(new) :]


def _page(data: bytes, random: Random) -> int:
    return random.randrange((len(data) + _PAGE - 1) // _PAGE) * _PAGE


KINDS: dict[str, Damage] = {
    "bit flipped": _flip,
    "page zeroed": lambda data, random, other: _overwrite(data, _page(data, random), bytes(_PAGE)),
    "page of noise": lambda data, random, other: _overwrite(data, _page(data, random), random.randbytes(_PAGE)),
    "sector of a sibling": lambda data, random, other: _overwrite(
        data, random.randrange(len(data)), other[:_SECTOR] or b"\0"
    ),
    "cut anywhere": lambda data, random, other: data[: random.randrange(len(data))],
    "cut at a block": lambda data, random, other: data[: random.randrange((len(data) - 1) // _SECTOR + 1) * _SECTOR],
    "bytes appended": lambda data, random, other: data + random.randbytes(random.randrange(1, 2 * _PAGE)),
    "replaced by a sibling": lambda data, random, other: other,
    "deleted": lambda data, random, other: None,
}


def damage(path: Path, kind: str, random: Random, sibling: Path) -> bool:
    """Damage a file, read-only or not.

    Args:
        path: Which.
        kind: One of `KINDS`.
        random: Where and what.
        sibling: A file of the same sort, for kinds that mix two up.

    Returns: whether its bytes are others now.
    """
    data = path.read_bytes()
    changed = KINDS[kind](data, random, sibling.read_bytes()) if data else None
    if changed == data:
        return False
    path.unlink()
    if changed is not None:
        path.write_bytes(changed)
    return True
