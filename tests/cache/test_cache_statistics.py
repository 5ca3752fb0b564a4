import pytest
import torch

from kdcache.cache import Cache
from kdcache.cache.cache_statistics import CacheStatistics
from kdcache.stream.config import StreamConfig
from kdcache.stream.loader import CacheLoader


def test_they_are_those_of_all_shards(tiny_cache: Cache) -> None:
    column = tiny_cache.find_column(kind="patch", tap="blocks.-1/patch", codec="fp16")
    statistics = CacheStatistics(tiny_cache).of(column)
    loader = CacheLoader(
        tiny_cache, [column], StreamConfig(batch_size=4, views_per_sample=2, images="none", num_threads=1)
    )
    values = torch.cat([batch.targets[column.name].decode() for batch in loader]).double().flatten(0, 1)
    values = values.reshape(-1, values.shape[-1])
    assert statistics.count in (len(values), 2 * len(values))
    assert len(tiny_cache.manifest.shards) > 1
    if statistics.count == len(values):
        torch.testing.assert_close(torch.from_numpy(statistics.mean), values.mean(0), rtol=1e-5, atol=1e-6)


def test_the_indexes_of_a_group_are_read_once(tiny_cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = Cache.group_index

    def counted(self: Cache, group: object, shard: object) -> object:
        read.append(shard.name)
        return real(self, group, shard)

    monkeypatch.setattr(Cache, "group_index", counted)
    statistics = CacheStatistics(tiny_cache)
    for column in tiny_cache.columns:
        assert statistics.of(column).num_channels == column.shape[-1]
    assert read == [shard.name for shard in tiny_cache.manifest.shards]
