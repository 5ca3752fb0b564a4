import pytest

from kdcache.costs.memcpy import Memcpy


def test_a_copy_takes_time_and_copies() -> None:
    memcpy = Memcpy(1 << 20, 3)
    assert 1e8 < memcpy.bytes_per_s(0.01) < 1e12
    assert any((buffer != 0).any() for buffer in memcpy._ring)


@pytest.mark.slow
def test_batches_larger_than_the_source_are_copied_at_least_once() -> None:
    assert Memcpy(300 << 20, 1).bytes_per_s(0.0) > 0
