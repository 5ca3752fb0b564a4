"""What is said where a cache does not hold what was asked for."""

from kdcache.cache import Cache
from kdcache.cache.not_held import ambiguous, no_column, not_held
from kdcache.errors import KdcacheError, Remedy


def test_each_names_the_cache_what_was_wanted_and_what_there_is(tiny_cache: Cache) -> None:
    error = not_held("there", "x", "no group 'x'", ["a", "b"])
    assert (str(error), error.remedy) == ("there: no group 'x'; it holds a, b", Remedy.NAME_HELD)
    assert str(ambiguous("there", "a tap", ["a", "b"])) == "there: a tap could be any of a, b"
    column = tiny_cache.find_column(kind="prefix")
    missing = no_column("there", "a logits tap", "logits", [column], {"g": KdcacheError("broken")})
    assert (
        str(missing)
        == f"there: no column for a logits tap; the cache holds {column.label}; group g cannot be used: broken"
    )
    assert missing.details["tap"] == "head/logits"
    assert no_column("there", "x", "blocks.9/patch", [], {}).details["tap"] == "blocks.9/patch"
