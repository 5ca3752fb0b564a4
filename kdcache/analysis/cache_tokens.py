"""Tokens from the records of a cache, and statistics from its indexes."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from kdcache.analysis.result import SourceFacts
from kdcache.analysis.tokens import LayerFacts, Pictures, Stored, TokenSource, evenly_spaced
from kdcache.cache.cache import Cache
from kdcache.cache.column import Column
from kdcache.cache.facts import ViewFacts
from kdcache.cache.record import Array
from kdcache.cache.statistics import TokenStatistics
from kdcache.errors import CacheMismatchError, Remedy
from kdcache.images import Source
from kdcache.models.taps import parse_tap
from kdcache.reading.reader import ShardReader
from kdcache.stream.images import ViewReplayer


class CacheTokens(TokenSource):
    """First views of evenly spaced images of a cache.

    Args:
        cache: The cache.
        columns: Patch columns of one group, each of another tap.
        num_images: How many images to read; 0 for none.
        batch_size: Images at a time.
        device: Where the tokens go.
        source: The images, for a cache that only refers to them; needed for pictures alone.
    """

    def __init__(
        self,
        cache: Cache,
        columns: Sequence[Column],
        *,
        num_images: int,
        batch_size: int,
        device: torch.device,
        source: Source | None = None,
    ) -> None:
        manifest, fingerprint = cache.manifest, cache.manifest.fingerprint
        self._group = cache.group(columns[0].group)
        teacher = self._group.manifest.fingerprint.teacher
        assert teacher is not None, "columns of patch tokens have a teacher"
        self._columns = sorted(columns, key=_block_of)
        self._cache, self._source, self._batch_size, self._device = cache, source, batch_size, device
        total = manifest.num_samples
        self._samples = evenly_spaced(total, num_images)
        self.layers = [
            LayerFacts(
                name=column.tap,
                block=_block_of(column),
                num_tokens=column.shape[0],
                num_channels=column.shape[1],
                grid=list(column.grid),
                column=column.name,
                codec=column.codec,
                fidelity=dict(_fidelity(cache, column)),
            )
            for column in self._columns
        ]
        self.facts = SourceFacts(
            kind="cache",
            path=str(cache.paths),
            digest=cache.identity(columns),
            teacher=teacher.name,
            weights=teacher.weights,
            data="digits" if fingerprint.source.kind == "digits" else "the cache",
            num_images=total,
            num_views=fingerprint.views.num_views,
            num_read=len(self._samples),
            num_blocks=teacher.num_blocks,
            view_recipe=fingerprint.views.recipe,
            view=_view(fingerprint.views),
        )

    def batches(self) -> Iterator[list[Tensor]]:
        """See the base class."""
        # Read, not mapped: what is mapped counts as this process's memory.
        reader = ShardReader(self._cache, self._columns, access="read", with_images=False, max_open=2)
        for first in range(0, len(self._samples), self._batch_size):
            samples = self._samples[first : first + self._batch_size]
            decoded = reader.decode(np.stack([samples, np.zeros_like(samples)], axis=1))
            yield [torch.from_numpy(decoded[column.name]).to(self._device) for column in self._columns]

    def stored(self) -> Stored | None:
        """See the base class; None for a cache without second moments."""
        if self._group.manifest.fingerprint.statistics != "full":
            return None
        # One index at a time: the second moments of all shards together would be gigabytes.
        totals = [TokenStatistics(column.shape[-1], with_moments=True) for column in self._columns]
        energies: list[list[Array]] = [[] for _ in self._columns]
        for shard in self._cache.manifest.shards:
            held = self._cache.group_index(self._group, shard).columns
            for column, total, kept in zip(self._columns, totals, energies, strict=True):
                total.merge(held[column.facts.name].statistics)
                kept.append(held[column.facts.name].singular_energies)
        return totals, [np.concatenate(each) for each in energies]

    def pictures(self, count: int) -> Pictures:
        """See the base class."""
        column = self._columns[-1]
        embedded = self._cache.manifest.fingerprint.images == "embed"
        reader = ShardReader(self._cache, [column], access="read", check="size")
        replayer = (
            ViewReplayer(self._cache, reader, self._source, check_share=1.0) if embedded or self._source else None
        )
        keys: list[str] = []
        pixels: list[Array] = []
        features: list[Array] = []
        for sample in evenly_spaced(self._cache.manifest.num_samples, count).tolist():
            shard, row = reader.locate(sample)
            keys.append(shard.index.key(row))
            if replayer is not None:
                pixels.append(next(replayer.pixels(shard, row, sample, [0])))
            if column.grid:
                features.append(reader.decode_record(shard, row, 0, column).reshape(*column.grid, -1))
        return Pictures(
            keys=keys,
            pixels=np.stack(pixels) if pixels else None,
            features=np.stack(features) if features else None,
        )


def choose_columns(
    cache: Cache, names: Sequence[str] | None, group: str | None = None
) -> tuple[list[Column], list[str]]:
    """The columns of one group to analyse: those named, else for every patch tap the one whose codec loses least.

    Args:
        cache: The cache.
        names: Columns; None to choose.
        group: Of this group; None where the cache has one only, or the columns named tell it.

    Returns: the columns, and a sentence for each that is left out.
    Raises: UsageError for names that are not there, CacheMismatchError for columns of several groups, not of patch
        tokens, or of one tap twice.
    """
    names = None if names is None else [cache.column(name).name for name in names]
    held = _columns_of(cache, names, group)
    patch = {column.name: column for column in held if column.kind == "patch"}
    if names is None:
        best: dict[str, Column] = {}
        for column in sorted(patch.values(), key=lambda each: _error_of(cache, each)):
            best.setdefault(column.tap, column)
        chosen = list(best.values())
        reasons = {name: f"same tap as {best[column.tap].name}, which loses less" for name, column in patch.items()}
    else:
        if others := [name for name in names if name not in patch]:
            raise CacheMismatchError(
                f"{cache.paths}: column {others[0]} is not of patch tokens; those are {', '.join(patch) or 'none'}",
                remedy=Remedy.NAME_HELD,
                wanted=others[0],
                held=list(patch),
            )
        chosen = [patch[name] for name in dict.fromkeys(names)]
        reasons = dict.fromkeys(patch, "not asked for")
    if not chosen:
        raise CacheMismatchError(
            f"{cache.paths}: no column of patch tokens, so there is nothing to analyse; it holds "
            f"{', '.join(column.name for column in held)}",
            remedy=Remedy.ADD_PATCH_TAP,
            wanted="patch tokens",
            held=[column.label for column in held],
        )
    if len({column.tap for column in chosen}) < len(chosen):
        raise CacheMismatchError(
            f"{cache.paths}: two of {', '.join(names or [])} are of the same tap",
            remedy=Remedy.NAME_ONE_COLUMN,
            wanted=names,
            held=[column.label for column in held],
        )
    others = {column.name: "not patch tokens" for column in held if column.kind != "patch"}
    left = {name: why for name, why in {**reasons, **others}.items() if name not in {each.name for each in chosen}}
    return chosen, [f"{name}: {why}" for name, why in left.items()]


def _view(views: ViewFacts) -> dict[str, Any]:
    """What decides how an image is cut out, without what the cache needs to replay it."""
    kept = {"size": views.size, "interpolation": views.interpolation, **views.params}
    written = msgspec.to_builtins(views)
    return kept | {name: written[name] for name in ("jpeg_quality", "exif", "alpha") if written.get(name)}


def _block_of(column: Column) -> int:
    return parse_tap(column.tap).block or 0


def _error_of(cache: Cache, column: Column) -> float:
    manifest = cache.group(column.group).manifest
    error = manifest.teacher_error(column.facts.name)
    if error is not None:
        return error
    return 0.0 if column.codec == "fp32" and manifest.fingerprint.converted is None else 1.0


def _fidelity(cache: Cache, column: Column) -> dict[str, float]:
    return cache.group(column.group).manifest.columns[column.facts.name].fidelity


def _columns_of(cache: Cache, names: Sequence[str] | None, group: str | None) -> list[Column]:
    groups = {group} if group is not None else {cache.column(name).group for name in names or []}
    groups = groups or {column.group for column in cache.columns}
    if len(groups) > 1:
        raise CacheMismatchError(
            f"{cache.paths}: one analysis is of one group, asked are {', '.join(sorted(groups))}",
            remedy=Remedy.NAME_ONE_GROUP,
            wanted=sorted(groups),
            held=list(cache.groups),
        )
    return [column for name in groups for column in cache.group(name).columns]
