import numpy as np
import pytest

from kdcache.cache import Cache
from kdcache.errors import CorruptCacheError
from kdcache.reading.reader import ShardReader


def test_a_record_is_compared_where_its_checksum_is_known(tiny_cache: Cache) -> None:
    column = tiny_cache.find_column(kind="patch", codec="fp32")
    reader = ShardReader(tiny_cache, [column])
    shard, _ = reader.locate(0)
    assert shard.sums == {}
    shard.check_record(column.name, 0, 0, 2, [b"anything"])
    shard.sums = {column.name: np.arange(16, dtype=np.uint32)}
    with pytest.raises(CorruptCacheError, match="view 1: the record's bytes"):
        shard.check_record(column.name, 0, 1, 2, [b"anything"])
    assert shard.mapped_bytes >= 0
