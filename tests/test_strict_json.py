import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.errors import CorruptCacheError
from kdcache.strict_json import dump_json, dump_sealed, load_json, load_sealed

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_what_is_written_reads_back(value: object) -> None:
    assert load_json(dump_json(value), where="test") == value


def test_one_value_has_one_spelling() -> None:
    assert dump_json({"b": 1, "a": [1.5, None]}) == dump_json({"a": [1.5, None], "b": 1}) == b'{"a":[1.5,null],"b":1}\n'


def test_names_that_are_not_unicode_survive() -> None:
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    data = dump_json({"key": name})
    assert data.isascii()
    assert load_json(data, where="test") == {"key": name}


@pytest.mark.parametrize(
    "data",
    [b'{"a":1,"a":2}', b"NaN", b"-Infinity", b"1e999", b"{", b"", b"\xff\xfe", b"[" * 100_000, b"1 2"],
    ids=["duplicate", "nan", "infinity", "overflow", "cut", "empty", "bytes", "deep", "two"],
)
def test_damaged_or_hostile_json_is_refused_with_its_place(data: bytes) -> None:
    with pytest.raises(CorruptCacheError, match=r"^some/file: "):
        load_json(data, where="some/file")


def test_a_repeated_name_among_very_many_is_found_at_once() -> None:
    """Counting every name again for each of them took minutes."""
    names = [f'"n{number}":0' for number in range(200_000)]
    began = time.monotonic()
    with pytest.raises(CorruptCacheError, match=r"repeated names \['n7'\]"):
        load_json(("{" + ",".join([*names, '"n7":1']) + "}").encode(), where="test")
    assert time.monotonic() - began < 10


def test_nan_is_not_written() -> None:
    with pytest.raises(ValueError, match="JSON"):
        dump_json(float("nan"))


def test_no_flipped_bit_changes_a_sealed_table_unnoticed() -> None:
    value = {"name": "deit", "size": 224, "mean": [0.485, 0.5], "classes": ["a", "\u00e4"]}
    whole = dump_sealed(value)
    assert load_sealed(whole, where="test") == value
    refused = 0
    for position in range(len(whole)):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[position] ^= 1 << bit
            try:
                found = load_sealed(bytes(flipped), where="test")
            except CorruptCacheError:
                refused += 1
            else:
                assert found == value, "another spelling of the same, such as 00E4"
    assert refused > 0.98 * 8 * len(whole)


@pytest.mark.parametrize("data", [b"{}", b"[]", dump_json({"name": "deit"})])
def test_a_table_without_its_hash_is_not_sealed(data: bytes) -> None:
    with pytest.raises(CorruptCacheError):
        load_sealed(data, where="test")
