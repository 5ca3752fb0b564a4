import pytest

from kdcache.errors import KdcacheError
from kdcache.teacher.quarantine import find_poison
from tests.teacher import poison


@pytest.mark.slow
def test_killers_and_hangers_are_found_and_nobody_else() -> None:
    found = find_poison(poison.read, range(9), timeout_s=1.0)
    assert set(found) == {poison.KILLS, poison.HANGS}
    assert "killed the process" in found[poison.KILLS]
    assert "-9" in found[poison.KILLS]
    assert "did not finish within 1 s" in found[poison.HANGS]


def test_what_cannot_be_tried_is_no_image_that_can_be_read() -> None:
    with pytest.raises(KdcacheError, match="cannot be tried one by one: OSError: Illegal seek"):
        find_poison(poison.read, [0, 20, 1], timeout_s=5.0)


def test_nothing_to_find() -> None:
    assert find_poison(poison.read, [0, 1, 2], timeout_s=5.0) == {}
    assert find_poison(poison.read, [], timeout_s=5.0) == {}
