"""Randomness as a pure function of what it is for: no generator state anywhere, so none to save."""

import hashlib

import numpy as np

# Not np.random, which numpy imports at its first use, within a stream's first step: the import of its compiled modules
# drops a KeyboardInterrupt without a word.
from numpy.random import Philox

_PHILOX_BLOCK = 4  # numbers for each step of Philox4x64's counter


def derived_key(*parts: object) -> bytes:
    """32 bytes that depend on the parts and on nothing else; strings may hold surrogate escapes."""
    text = "\0".join(str(part) for part in parts)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def derived_seed(*parts: object) -> int:
    """A 63-bit seed for torch, different for every purpose: two things built with one user seed must not be alike."""
    return int.from_bytes(derived_key(*parts)[:8], "little") >> 1


def derived_bits(count: int, *parts: object, skip: int = 0) -> np.ndarray:
    """Random uint64 numbers. Philox bits are fixed across numpy versions, Generator methods are not (NEP 19).

    Args:
        count: How many.
        parts: What they are for.
        skip: Leave out so many first; takes no time, however many.
    """
    key = int.from_bytes(derived_key(*parts)[:16], "little")
    blocks, rest = divmod(skip, _PHILOX_BLOCK)
    return Philox(key=key).advance(blocks).random_raw(rest + count)[rest:]


def uniforms(bits: np.ndarray) -> list[float]:
    """Numbers in [0, 1) from the upper 53 bits of each."""
    return ((bits >> np.uint64(11)) * 2.0**-53).tolist()
