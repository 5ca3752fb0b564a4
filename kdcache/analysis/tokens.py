"""Where tokens come from: the records of a cache, or a model and images. Read batch by batch, as often as needed."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from kdcache.analysis.result import SourceFacts
from kdcache.cache.cache import Cache
from kdcache.cache.manifest import ColumnFacts
from kdcache.cache.record import Array
from kdcache.cache.statistics import TokenStatistics, merged
from kdcache.errors import CacheMismatchError, SourceError, TapError
from kdcache.images import Source
from kdcache.models.taps import Tap, TapReader, num_blocks, parse_tap, token_grid
from kdcache.pixels import normalize_pixels
from kdcache.stream.eval_images import EvalView, eval_batches
from kdcache.stream.images import ViewReplayer
from kdcache.stream.reader import ShardReader

_THREADS = 2
# Of each layer statistics over all its tokens, and squared singular values (images, min(N, C)) of some images.
Stored = tuple[list[TokenStatistics], list[Array]]


@dataclass(frozen=True, kw_only=True)
class LayerFacts:
    """One tap that is listened to; see `result.Layer`."""

    name: str
    block: int
    num_tokens: int
    num_channels: int
    grid: list[int]
    column: str = ""
    codec: str = ""
    fidelity: dict[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """A few images beside what the last layer said of them.

    Attributes:
        keys: Their names.
        pixels: (R, S, S, 3) uint8; None where the images are not at hand.
        features: (R, rows, columns, C); None where the tokens are on no grid.
    """

    keys: list[str]
    pixels: Array | None
    features: Array | None


class TokenSource(ABC):
    """Tokens of some images at some taps.

    Attributes:
        layers: The taps, by depth.
        facts: What this is.
    """

    layers: list[LayerFacts]
    facts: SourceFacts

    @abstractmethod
    def batches(self) -> Iterator[list[Tensor]]:
        """All tokens, in batches of images: for each layer (B, N, C) float32 on the device. May be called again."""

    @abstractmethod
    def pictures(self, count: int) -> Pictures:
        """Some of the images, evenly spaced."""

    def stored(self) -> Stored | None:
        """What is known without reading tokens; None where nothing is stored."""
        return None


class CacheTokens(TokenSource):
    """First views of evenly spaced images of a cache.

    Args:
        cache: The cache.
        columns: Patch columns, each of another tap.
        num_images: How many images to read; 0 for none.
        batch_size: Images at a time.
        device: Where the tokens go.
        source: The images, for a cache that only refers to them; needed for pictures alone.
    """

    def __init__(
        self,
        cache: Cache,
        columns: Sequence[ColumnFacts],
        *,
        num_images: int,
        batch_size: int,
        device: torch.device,
        source: Source | None = None,
    ) -> None:
        manifest, fingerprint = cache.manifest, cache.manifest.fingerprint
        self._columns = sorted(columns, key=_block_of)
        self._cache, self._source, self._batch_size, self._device = cache, source, batch_size, device
        total = manifest.num_samples
        self._samples = np.arange(min(num_images, total)) * total // max(1, min(num_images, total))
        self.layers = [
            LayerFacts(
                name=column.tap,
                block=_block_of(column),
                num_tokens=column.shape[0],
                num_channels=column.shape[1],
                grid=list(column.grid),
                column=column.name,
                codec=column.codec,
                fidelity=dict(manifest.columns[column.name].fidelity),
            )
            for column in self._columns
        ]
        self.facts = SourceFacts(
            kind="cache",
            path=str(cache.paths.root),
            digest=cache.digest,
            teacher=fingerprint.teacher.name,
            weights=fingerprint.teacher.weights,
            data=fingerprint.source.kind,
            num_images=total,
            num_views=fingerprint.views.num_views,
            num_read=len(self._samples),
        )

    def batches(self) -> Iterator[list[Tensor]]:
        """See the base class."""
        # Read, not mapped: what is mapped counts as this process's memory.
        reader = ShardReader(self._cache, self._columns, access="read", with_images=False)
        layouts = [column.layout() for column in self._columns]
        for first in range(0, len(self._samples), self._batch_size):
            samples = self._samples[first : first + self._batch_size]
            rows = np.stack([samples, np.zeros_like(samples)], axis=1)
            fields = [
                {each.name: np.empty((len(rows), *each.shape), each.dtype) for each in layout.fields}
                for layout in layouts
            ]
            into = {
                column.name: [values.reshape(len(rows), -1).view(np.uint8) for values in each.values()]
                for column, each in zip(self._columns, fields, strict=True)
            }
            reader.gather(rows, into)
            decoded = (
                column.make_codec().decode(each, tuple(column.shape))
                for column, each in zip(self._columns, fields, strict=True)
            )
            yield [torch.from_numpy(values).to(self._device) for values in decoded]

    def stored(self) -> Stored | None:
        """See the base class; None for a cache without second moments."""
        if self._cache.manifest.fingerprint.statistics != "full":
            return None
        indexes = [self._cache.index(shard) for shard in self._cache.manifest.shards]
        names = [column.name for column in self._columns]
        statistics = [merged(index.columns[name].statistics for index in indexes) for name in names]
        return statistics, [
            np.concatenate([index.columns[name].singular_energies for index in indexes]) for name in names
        ]

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
        total = self._cache.manifest.num_samples
        for sample in (np.arange(min(count, total)) * total // min(count, total)).tolist():
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


class ModelTokens(TokenSource):
    """What a model says of evenly spaced images, asked again at every pass.

    Args:
        model: A timm model in evaluation mode on its device.
        taps: Patch taps, each of another block.
        view: How it sees images.
        source: The images.
        num_images: How many of them.
        batch_size: Images in one forward.
        facts: Name, weights and images, for the record; the numbers of images are filled in.

    Raises: TapError for taps that are not patch taps or not there.
    """

    def __init__(
        self,
        model: nn.Module,
        taps: Sequence[Tap],
        *,
        view: EvalView,
        source: Source,
        num_images: int,
        batch_size: int,
        facts: SourceFacts,
    ) -> None:
        resolved = sorted({tap.resolve(num_blocks(model)) for tap in taps}, key=lambda tap: tap.block or 0)
        if not resolved or any(tap.kind != "patch" for tap in resolved):
            raise TapError(f"an analysis is of patch tokens, got {', '.join(map(str, taps)) or 'no tap'}")
        self._model, self._view, self._source = model, view, source
        self._reader = TapReader(model, resolved)
        self._device = next(model.parameters()).device
        total = len(source.images)
        count = min(num_images, total)
        self._positions = (np.arange(count) * total // max(1, count)).tolist()
        self._batch_size = batch_size
        said = self._run(np.zeros((1, view.size, view.size, 3), np.uint8))
        self.layers = [
            LayerFacts(
                name=str(tap),
                block=tap.block or 0,
                num_tokens=values.shape[1],
                num_channels=values.shape[2],
                grid=list(token_grid(model, tap.block or 0, view.size)),
            )
            for tap, values in zip(resolved, said, strict=True)
        ]
        self.facts = SourceFacts(**{**_fields(facts), "num_images": total, "num_read": count})

    def batches(self) -> Iterator[list[Tensor]]:
        """See the base class.

        Raises: SourceError when an image cannot be decoded, for every layer must see the same ones.
        """
        for pixels, _, num_bad in eval_batches(self._source, self._view, self._positions, self._batch_size, _THREADS):
            if num_bad:
                raise SourceError(
                    f"{num_bad} of {len(pixels) + num_bad} images of a batch cannot be decoded; take them out of the "
                    "source (`kdcache extract` lists bad images by name)"
                )
            yield self._run(pixels)

    def pictures(self, count: int) -> Pictures:
        """See the base class."""
        wanted = min(count, len(self._positions))
        positions = [self._positions[at * len(self._positions) // wanted] for at in range(wanted)]
        pixels, _, _ = next(eval_batches(self._source, self._view, positions, wanted, _THREADS))
        last = self.layers[-1]
        features = self._run(pixels)[-1].cpu().numpy()
        return Pictures(
            keys=[self._source.images[position].readable_key for position in positions],
            pixels=pixels,
            features=features.reshape(len(features), *last.grid, -1) if last.grid else None,
        )

    def _run(self, pixels: Array) -> list[Tensor]:
        with torch.inference_mode():
            images = torch.from_numpy(pixels).to(self._device)
            said = self._reader(self._model, normalize_pixels(images, mean=self._view.mean, std=self._view.std))
        return [said[tap].float() for tap in self._reader.taps]


def choose_columns(cache: Cache, names: Sequence[str] | None) -> tuple[list[ColumnFacts], list[str]]:
    """The columns to analyse: those named, else for every patch tap the one whose codec loses least.

    Returns: the columns, and a sentence for each that is left out.
    Raises: CacheMismatchError for names that are not there, or not of patch tokens, or of one tap twice.
    """
    held = cache.manifest.fingerprint.columns
    patch = {column.name: column for column in held if column.kind == "patch"}
    if names is None:
        best: dict[str, ColumnFacts] = {}
        for column in sorted(patch.values(), key=lambda each: _error_of(cache, each)):
            best.setdefault(column.tap, column)
        chosen = list(best.values())
        reasons = {name: f"same tap as {best[column.tap].name}, which loses less" for name, column in patch.items()}
    else:
        unknown = [name for name in names if name not in patch]
        if unknown:
            raise CacheMismatchError(
                f"{cache.paths.root}: no column {unknown[0]!r} of patch tokens; it holds {', '.join(patch) or 'none'}"
            )
        chosen = [patch[name] for name in dict.fromkeys(names)]
        reasons = dict.fromkeys(patch, "not asked for")
    if not chosen:
        raise CacheMismatchError(
            f"{cache.paths.root}: no column of patch tokens, so there is nothing to analyse; it holds "
            f"{', '.join(column.name for column in held)}. Extract again with `--tap blocks.-1/patch`"
        )
    if len({column.tap for column in chosen}) < len(chosen):
        raise CacheMismatchError(f"{cache.paths.root}: two of {', '.join(names or [])} are of the same tap; name one")
    others = {column.name: "not patch tokens" for column in held if column.kind != "patch"}
    left = {name: why for name, why in {**reasons, **others}.items() if name not in {each.name for each in chosen}}
    return chosen, [f"{name}: {why}" for name, why in left.items()]


def _block_of(column: ColumnFacts) -> int:
    return parse_tap(column.tap).block or 0


def _error_of(cache: Cache, column: ColumnFacts) -> float:
    return cache.manifest.columns[column.name].fidelity.get("relative_error", 0.0 if column.codec == "fp32" else 1.0)


def _fields(facts: SourceFacts) -> dict[str, object]:
    return {name: getattr(facts, name) for name in facts.__struct_fields__}
