import numpy as np
import pytest

from kdcache.reading import labels
from kdcache.reading.labels import LabelTable

STARTS = np.array([0, 3, 3, 5])


@pytest.mark.usefixtures("way")
def test_labels_of_rows_of_open_shards() -> None:
    table = LabelTable({2: np.array([7, -1]), 0: np.array([4, 5, 6])}, STARTS)
    found = table.take(np.array([[4, 0], [0, 1], [2, 0], [3, 0]]))
    assert found is not None and found.tolist() == [-1, 4, 6, 7]


@pytest.mark.usefixtures("way")
def test_a_row_of_a_closed_shard() -> None:
    table = LabelTable({0: np.array([4, 5, 6])}, STARTS)
    assert table.take(np.array([[0, 0], [3, 0]])) is None
    assert LabelTable({}, STARTS).take(np.array([[0, 0]])) is None


@pytest.mark.usefixtures("way")
def test_labels_of_other_integers() -> None:
    """And rows that do not lie side by side."""
    table = LabelTable({2: np.array([7, -1], np.int32)}, STARTS)
    found = table.take(np.array([[4, 0], [0, 1], [3, 0]], np.int32)[::2])
    assert found is not None and found.tolist() == [-1, 7]


def test_the_extension_refuses_what_does_not_fit() -> None:
    if labels._gather is None:
        pytest.skip("the C extension was not built")
    rows, offsets, out = np.array([[4, 0]]), np.zeros(3, np.int64), np.empty(1, np.int64)
    with pytest.raises(ValueError, match="do not fit"):
        labels._gather.take(rows, STARTS, offsets[:2], out, out)
    with pytest.raises(ValueError, match="do not fit"):
        labels._gather.take(rows, STARTS, offsets, out, out[:0])
    assert not labels._gather.take(rows, STARTS, offsets, out, np.empty(1, np.int64)), "only one value"
