import numpy as np
import pytest

from kdcache.cache.schema import ArraySpec, check_arrays, check_finite, check_range

SPECS: dict[str, ArraySpec] = {"keys": ("S", ("R",)), "labels": ("<i8", ("R",)), "sums": ("<f4", ("R", 3))}
ARRAYS = {"keys": np.array([b"a", b"bcd"]), "labels": np.arange(2), "sums": np.zeros((2, 3), np.float32)}


def test_letters_stand_for_one_number() -> None:
    assert check_arrays(ARRAYS, SPECS) == {"R": 2}


@pytest.mark.parametrize(
    ("name", "values", "found"),
    [
        ("labels", np.arange(3), r"shape \(3,\), wanted <i8 of shape \(2,\)"),
        ("labels", np.arange(2, dtype=np.int32), "labels is <i4"),
        ("labels", np.int64(1), r"shape \(\), wanted <i8 of shape \(2,\)"),
        ("sums", np.zeros((2, 4), np.float32), r"shape \(2, 4\), wanted <f4 of shape \(2, 3\)"),
        ("keys", np.arange(2), "wanted S"),
    ],
)
def test_another_type_or_shape_is_named(name: str, values: np.ndarray, found: str) -> None:
    with pytest.raises(ValueError, match=found):
        check_arrays({**ARRAYS, name: values}, SPECS)


def test_a_missing_array_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="labels"):
        check_arrays({"keys": ARRAYS["keys"]}, SPECS)


def test_ranges() -> None:
    check_range("x", np.array([1, 5]), 1, 5)
    check_range("x", np.empty(0), 1)
    with pytest.raises(ValueError, match="x holds 0, wanted 1 or more"):
        check_range("x", np.array([5, 0]), 1)
    with pytest.raises(ValueError, match="x holds nan, wanted 1 to 5"):
        check_range("x", np.array([np.nan]), 1, 5)
    with pytest.raises(ValueError, match="x holds values that are not finite"):
        check_finite("x", np.array([0.0, np.inf]))
