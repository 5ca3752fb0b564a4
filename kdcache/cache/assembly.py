"""Manifests made from the indexes of finished shards."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from kdcache.cache.base import BaseFingerprint, BaseManifest, BaseShard, planned_shards
from kdcache.cache.facts import ColumnSummary, FileFacts
from kdcache.cache.fidelity import Fidelity
from kdcache.cache.group import GroupFingerprint, GroupManifest, GroupShard
from kdcache.cache.group_index import ColumnIndex, GroupIndex, read_group_index
from kdcache.cache.hdf5 import decoded
from kdcache.cache.index import ShardIndex, read_index
from kdcache.cache.job import committed, later_versions, other_plan, read_ledger
from kdcache.cache.manifest import fingerprint_digest
from kdcache.cache.paths import INDEX, LEDGER, CachePaths
from kdcache.cache.publishing import here
from kdcache.cache.statistics import TokenStatistics
from kdcache.errors import CorruptCacheError, IncompleteCacheError, Remedy


def assemble_base(paths: CachePaths, fingerprint: BaseFingerprint, names: Sequence[str]) -> BaseManifest:
    """The manifest of a base whose shards are all done.

    Raises: IncompleteCacheError if a shard is not committed, CorruptCacheError if one does not account for every image
        that was planned for it.
    """
    shards: list[BaseShard] = []
    plan = fingerprint_digest(fingerprint)
    modes: Counter[str] = Counter()
    num_rotated = 0
    planned = {shard.name: shard.num_samples for shard in planned_shards(fingerprint)}
    for name in names:
        with here(paths, name, INDEX, LEDGER) as own:
            _require(own, name, plan)
            index: ShardIndex = read_index(own.shard(INDEX, name))
            num_bad = len(read_ledger(own.shard(LEDGER, name)))
            files = {**index.files, INDEX: FileFacts.read(own.shard(INDEX, name))}
        if len(index) + num_bad != planned[name]:
            raise CorruptCacheError(
                f"{paths}: shard {name} holds {len(index)} images and its ledger names {num_bad}, "
                f"{planned[name]} were planned",
                remedy=Remedy.REPAIR,
            )
        shards.append(BaseShard(name=name, num_samples=len(index), num_bad=num_bad, files=files))
        modes.update(decoded(mode) for mode in index.modes)
        num_rotated += int((index.orientations != 1).sum())
    return BaseManifest(
        fingerprint=fingerprint,
        shards=shards,
        image_modes=dict(sorted(modes.items())),
        num_rotated=num_rotated,
        num_bad=sum(shard.num_bad for shard in shards),
        later_versions=later_versions(paths),
    )


def assemble_group(
    paths: CachePaths, fingerprint: GroupFingerprint, base: BaseManifest, base_digest: str
) -> GroupManifest:
    """The manifest of a group whose shards are all done.

    Args:
        paths: The group.
        fingerprint: How it was made.
        base: Its base, which says how many records a shard has.
        base_digest: sha256 of the base's manifest.

    Raises: IncompleteCacheError if a shard is not committed, CorruptCacheError if a column of one has not one record
        for every view, BadRecordError if a column holds the same for everything.
    """
    shards: list[GroupShard] = []
    plan = fingerprint_digest(fingerprint)
    base_paths = CachePaths(paths.root.parent)
    summaries: dict[str, _Summary] = {}
    for shard in base.shards:
        name, num_records = shard.name, shard.num_samples * base.fingerprint.views.num_views
        # One at a time: the second moments of all shards together would be gigabytes.
        with here(paths, name, INDEX) as own:
            _require(own, name, plan)
            index: GroupIndex = read_group_index(own.shard(INDEX, name))
            files = {**index.files, INDEX: FileFacts.read(own.shard(INDEX, name))}
        shards.append(GroupShard(name=name, files=files))
        for column, each in {**index.columns, **index.pixels}.items():
            if len(each.crc32) != num_records:
                raise CorruptCacheError(
                    f"{paths}: shard {name} has {len(each.crc32)} records of column {column}, {num_records} are wanted",
                    remedy=Remedy.REPAIR,
                )
        for column, each in index.columns.items():
            summaries.setdefault(column, _Summary()).add(each)
    for name, summary in summaries.items():
        total = summary.total
        if total.is_constant and not (total.count == base.num_records and _is_one_view(base_paths, base)):
            total.refuse_constant(f"group {paths.root.name}, column {name}")
    return GroupManifest(
        fingerprint=fingerprint,
        base=base_digest,
        shards=shards,
        later_versions=later_versions(paths),
        columns={name: summary.finish() for name, summary in summaries.items()},
    )


def _is_one_view(paths: CachePaths, base: BaseManifest) -> bool:
    """Whether all views of a base are the same pixels, of which a teacher gives the same."""
    seen: set[bytes] = set()
    for shard in base.shards:
        hashes = read_index(paths.shard(INDEX, shard.name)).pixel_hashes
        seen.update(each.tobytes() for each in hashes.reshape(-1, hashes.shape[-1]))
        if len(seen) > 1:
            return False
    return True


def _require(paths: CachePaths, name: str, plan: str) -> None:
    head = committed(paths, name)
    if head is None:
        raise IncompleteCacheError(f"{paths}: shard {name} is not finished", remedy=Remedy.FINISH_EXTRACTION)
    if head.plan != plan:
        raise other_plan(paths, name, head.plan, plan)


class _Summary:
    """Merges the statistics of a column over shards."""

    def __init__(self) -> None:
        self._total: TokenStatistics | None = None
        self._fidelity: Fidelity | None = Fidelity()

    def add(self, column: ColumnIndex) -> None:
        """Take in one shard."""
        if self._total is None:
            self._total = TokenStatistics(column.statistics.num_channels, column.statistics.with_moments)
        self._total.merge(column.statistics)
        if column.fidelity is None or self._fidelity is None:
            # A rebuilt index has no fidelity: that of the other shards alone would be another figure of the same name.
            self._fidelity = None
        else:
            self._fidelity.merge(column.fidelity)

    @property
    def total(self) -> TokenStatistics:
        """Of all shards."""
        assert self._total is not None, "there is at least one shard"
        return self._total

    def finish(self) -> ColumnSummary:
        """The column's entry in the manifest."""
        total = self.total
        num_values = max(total.count * total.num_channels, 1)
        return ColumnSummary(
            fidelity={} if self._fidelity is None else self._fidelity.summary(),
            minimum=float(total.minimum.min()) if total.count else 0.0,
            maximum=float(total.maximum.max()) if total.count else 0.0,
            rms=float(np.sqrt((total.m2.sum() + total.count * np.square(total.mean).sum()) / num_values)),
            num_tokens=total.count,
            num_zero_tokens=total.num_zero_tokens,
        )
