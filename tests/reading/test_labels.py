import numpy as np

from kdcache.reading.labels import LabelTable

STARTS = np.array([0, 3, 3, 5])


def test_labels_of_rows_of_open_shards() -> None:
    table = LabelTable({2: np.array([7, -1]), 0: np.array([4, 5, 6])}, STARTS)
    found = table.take(np.array([[4, 0], [0, 1], [2, 0], [3, 0]]))
    assert found is not None and found.tolist() == [-1, 4, 6, 7]


def test_a_row_of_a_closed_shard() -> None:
    table = LabelTable({0: np.array([4, 5, 6])}, STARTS)
    assert table.take(np.array([[0, 0], [3, 0]])) is None
    assert LabelTable({}, STARTS).take(np.array([[0, 0]])) is None
