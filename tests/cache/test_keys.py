import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.cache.keys import MAX_KEY_BYTES, is_safe_key, keys_digest, safe_keys


@pytest.mark.parametrize("key", ["a", "n01440764/ILSVRC_0001-x", "_a", "a/b/c", "x" * MAX_KEY_BYTES])
def test_readable_keys_stay(key: str) -> None:
    assert safe_keys([key + ".jpg"], [key]) == [key]


@pytest.mark.parametrize(
    "key",
    [
        "",
        ".",
        "..",
        "a.b",
        "a b",
        "a/",
        "/a",
        "a//b",
        "../x",
        "a/../b",
        "ü",
        "a\n",
        "__meta__",
        "a/__b",
        "x" * 89,
        "a\0",
    ],
)
def test_dangerous_keys_are_replaced_by_their_hash(key: str) -> None:
    [safe] = safe_keys([key], [key])
    assert safe.startswith("kdcache-")
    assert is_safe_key(safe)


def test_keys_that_differ_in_case_only_do_not_meet() -> None:
    keys = safe_keys(["A.jpg", "a.jpg", "b.jpg"], ["A", "a", "b"])
    assert keys[2] == "b"
    assert len({key.casefold() for key in keys}) == 3


def test_same_stem_with_two_extensions() -> None:
    keys = safe_keys(["c/1.jpg", "c/1.png"], ["c/1", "c/1"])
    assert len(set(keys)) == 2


def test_nobody_can_imitate_a_hashed_key() -> None:
    [hashed] = safe_keys(["a b"], ["a b"])
    assert len(set(safe_keys(["a b", hashed], ["a b", hashed]))) == 2


@given(st.lists(st.text(max_size=100), unique=True, max_size=20))
def test_any_names_become_safe_and_unique(names: list[str]) -> None:
    encodable = [name for name in names if _encodes(name)]
    keys = safe_keys(encodable, encodable)
    assert len(set(keys)) == len(keys)
    assert all(is_safe_key(key) for key in keys)


def _encodes(name: str) -> bool:
    try:
        name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def test_the_digest_depends_on_order_and_boundaries() -> None:
    digests = {keys_digest(keys) for keys in (["a", "b"], ["b", "a"], ["a\nb"], ["a\\nb"], ["ab"], [])}
    assert len(digests) == 6
