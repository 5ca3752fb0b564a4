import pytest

from kdcache.cache.sample import Sample
from kdcache.errors import CorruptCacheError

FIELDS = ("left", "flip")
SAMPLE = Sample(
    key="a/b",
    source_key=b"a/b \xff.jpg".decode("utf-8", "surrogateescape"),
    label=3,
    source_sha256="ab" * 32,
    size=(640, 480),
    mode="L",
    orientation=6,
    views=((1, 0), (2, 1)),
    pixel_hashes=("01" * 16, "02" * 16),
)


def test_json_and_back() -> None:
    data = SAMPLE.to_json(FIELDS)
    assert data.isascii()
    assert Sample.from_json("a/b", data, FIELDS, where="test") == SAMPLE


@pytest.mark.parametrize("data", [b"{}", b"[]", b'{"size":[1]}', b"not json"])
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptCacheError, match="shard 1"):
        Sample.from_json("a", data, FIELDS, where="shard 1")
