import numpy as np

from kdcache.packed import PackedFiles, one_after_another


def test_files_lie_one_after_the_other() -> None:
    packed = PackedFiles.of([b"ab", b"", b"cde"])
    assert packed.data.tobytes() == b"abcde"
    np.testing.assert_array_equal(packed.places, [[0, 2], [2, 0], [2, 3]])
    assert packed.places.dtype == np.int64 and packed.places.flags.c_contiguous
    assert len(packed) == 3
    assert [packed[number] for number in range(3)] == [b"ab", b"", b"cde"]


def test_none_and_one() -> None:
    assert len(PackedFiles.of([])) == 0
    data = b"only one"
    assert PackedFiles.of([data])[0] == data
    assert np.shares_memory(PackedFiles.of([data]).data, np.frombuffer(data, np.uint8)), "nothing to copy"
    assert one_after_another([]).shape == (0, 2)
