"""What happens to a small real file before a reader gets it: bits, bytes, lengths, cuts, splices, repetitions."""

import struct
from collections.abc import Callable
from typing import NamedTuple

from hypothesis import strategies as st

# What a parser may stumble over: extreme lengths as tar, npy, HDF5, zip, PNG and JSON write them, and odd JSON.
TOKENS = (
    b"77777777777\0",
    b"00000000000\0",
    b"-0000000001\0",
    *(struct.pack(f"{order}{kind}", 2 ** (8 * size - less) - 1)
      for order in "<>" for kind, size in (("H", 2), ("I", 4), ("Q", 8)) for less in (0, 1)),
    b"\0" * 8,
    b"\xff" * 512,
    b"[" * 100_000,
    b'"\\ud800"',
    b"NaN",
    b"1e999",
    b"9" * 5000,
    b"-1",
    b"(1099511627776,)",
    b"(" * 3000,
    b"'descr': '|O'",
    b"\x1f\x8b",
    b"PK\x03\x04",
    b"../../x",
    b"\x89HDF\r\n\x1a\n",
)  # fmt: skip


class Mutation(NamedTuple):
    """One change; places are fractions of the file, so that they mean something for each."""

    kind: str
    place: float
    other: float
    size: int
    token: bytes

    def __repr__(self) -> str:
        return f"{self.kind} at {self.place} from {self.other}, {self.size} bytes, {self.token[:16]}"


def _flip(data: bytes, at: int, other: int, size: int, token: bytes) -> bytes:
    return data[:at] + bytes([data[at] ^ (1 << size % 8)]) + data[at + 1 :] if data else data


def _overwrite(data: bytes, at: int, other: int, size: int, token: bytes) -> bytes:
    return data[:at] + token + data[at + len(token) :]


def _insert(data: bytes, at: int, other: int, size: int, token: bytes) -> bytes:
    return data[:at] + token + data[at:]


def _cut(data: bytes, at: int, other: int, size: int, token: bytes) -> bytes:
    return data[:at]


def _remove(data: bytes, at: int, other: int, size: int, token: bytes) -> bytes:
    return data[:at] + data[at + size :]


def _splice(data: bytes, at: int, other: int, size: int, token: bytes) -> bytes:
    return data[:at] + data[other : other + size] + data[at + size :]


def _repeat(data: bytes, at: int, other: int, size: int, token: bytes) -> bytes:
    return data[:at] + data[at : at + size] * 3 + data[at + size :]


KINDS: dict[str, Callable[[bytes, int, int, int, bytes], bytes]] = {
    "flip": _flip,
    "overwrite": _overwrite,
    "insert": _insert,
    "cut": _cut,
    "remove": _remove,
    "splice": _splice,
    "repeat": _repeat,
}
_place = st.one_of(
    st.floats(0, 0.999), st.floats(0, 0.02), st.sampled_from([0.0, 0.999])
)  # most formats begin with their lengths
MUTATIONS = st.lists(
    st.builds(
        Mutation,
        kind=st.sampled_from(sorted(KINDS)),
        place=_place,
        other=_place,
        size=st.sampled_from([1, 2, 4, 8, 64, 512, 1024]),
        token=st.one_of(st.sampled_from(TOKENS), st.binary(min_size=1, max_size=8)),
    ),
    min_size=1,
    max_size=4,
)


def mutated(data: bytes, mutations: list[Mutation]) -> bytes:
    """The bytes after all mutations, in their order."""
    for each in mutations:
        at, other = int(each.place * len(data)), int(each.other * len(data))
        data = KINDS[each.kind](data, at, other, each.size, each.token)
    return data
