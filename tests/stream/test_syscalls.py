import errno
import os
from pathlib import Path

import numpy as np
import pytest

from kdcache.stream import syscalls
from tests.stream.ways import needs_kernel_copy

SIZE = 1 << 20


@needs_kernel_copy
@pytest.mark.parametrize("sizes", [(1,), (100, 3), (1, 2, 3, 4, 5)])
@pytest.mark.parametrize("count", [0, 1, 1025, 3000])
def test_copies_of_any_number(random: np.random.Generator, sizes: tuple[int, ...], count: int) -> None:
    """Also more than one call takes."""
    source = np.frombuffer(random.bytes(SIZE), np.uint8)
    begins = random.integers(0, SIZE - sum(sizes), count)
    into = [np.zeros((count, size), np.uint8) for size in sizes]
    assert syscalls.copy(source.ctypes.data + begins, into) == count
    for begin, *parts in zip(begins.tolist(), *into, strict=True):
        assert np.concatenate(parts).tobytes() == source[begin : begin + sum(sizes)].tobytes()


@needs_kernel_copy
@pytest.mark.parametrize("bad", [0, 1, 1024, 1500])
def test_the_first_record_that_is_not_there(tmp_path: Path, bad: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(SIZE))
    descriptor = os.open(path, os.O_RDONLY)
    address = syscalls.map_file(descriptor, SIZE)
    assert syscalls.populate(address, SIZE)
    os.truncate(path, SIZE // 2)
    begins = np.full(2000, address)
    begins[bad:] += SIZE // 2
    assert syscalls.copy(begins, [np.zeros((2000, 64), np.uint8)]) == bad
    assert not syscalls.populate(address + SIZE // 2, 4096)
    syscalls.unmap(address, SIZE)
    os.close(descriptor)


@needs_kernel_copy
def test_a_kernel_that_says_no(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's filter answers EPERM: an error for who copies, and the reason not to begin with it."""

    def forbidden(*_arguments: int) -> int:
        syscalls.ctypes.set_errno(errno.EPERM)
        return -1

    monkeypatch.setattr(syscalls._LIBC, "process_vm_readv", forbidden)
    with pytest.raises(PermissionError):
        syscalls.copy(np.array([1]), [np.zeros((1, 8), np.uint8)])
    assert not syscalls.can_copy.__wrapped__()


def test_bad_descriptors_and_addresses() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        syscalls.map_file(-1, 4096)
    with pytest.raises(OSError, match="Invalid argument"):
        syscalls.unmap(1, 4096)
