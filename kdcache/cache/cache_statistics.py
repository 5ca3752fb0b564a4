"""Statistics of columns over a whole cache, from the indexes of its shards."""

from typing import final

from kdcache.cache.cache import Cache
from kdcache.cache.column import Column
from kdcache.cache.statistics import TokenStatistics


@final
class CacheStatistics:
    """Reads each group's indexes once, for all of its columns, when the first of them is asked for.

    Args:
        cache: The cache.
    """

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._groups: dict[str, dict[str, TokenStatistics]] = {}

    def of(self, column: Column) -> TokenStatistics:
        """Statistics of a column over all shards. Raises: CorruptCacheError."""
        if column.group not in self._groups:
            self._groups[column.group] = self._read(column.group)
        return self._groups[column.group][column.facts.name]

    def _read(self, name: str) -> dict[str, TokenStatistics]:
        group = self._cache.group(name)
        total: dict[str, TokenStatistics] = {}
        for shard in self._cache.manifest.shards:
            for column, index in self._cache.group_index(group, shard).columns.items():
                own = index.statistics
                total.setdefault(column, TokenStatistics(own.num_channels, own.with_moments)).merge(own)
        return total
