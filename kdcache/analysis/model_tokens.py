"""Tokens from a model that runs again at every pass."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from kdcache.analysis.result import SourceFacts
from kdcache.analysis.tokens import LayerFacts, Pictures, TokenSource, evenly_spaced
from kdcache.cache.record import Array
from kdcache.errors import Remedy, SourceError, TapError
from kdcache.images import Source
from kdcache.models.taps import Tap, TapReader, num_blocks, token_grid
from kdcache.pixels import normalize_pixels
from kdcache.students.change import TokenHead, trunk_of
from kdcache.views import EvalView

_CHANGE = Tap("change")

# From positions in the source and a batch size: pixels (B, S, S, 3) uint8, labels, and how many could not be decoded.
ReadImages = Callable[[Sequence[int], int], Iterator[tuple[Array, list[int], int]]]


class ModelTokens(TokenSource):
    """Tokens of a model for evenly spaced images, computed again at every pass.

    Args:
        model: A timm model or a lifted student, in evaluation mode on its device.
        taps: Patch taps, each of another block, and ``change/tokens`` of a lifted student.
        view: How it sees images.
        source: The images.
        read_images: Reads some of them in that view; `kdcache.train.eval_images.eval_batches` does.
        num_images: How many of them.
        batch_size: Images in one forward.
        facts: Name, weights and images, for the record; the numbers of images are filled in.

    Raises: TapError for taps that are not of patch tokens or not there.
    """

    def __init__(
        self,
        model: nn.Module,
        taps: Sequence[Tap],
        *,
        view: EvalView,
        source: Source,
        read_images: ReadImages,
        num_images: int,
        batch_size: int,
        facts: SourceFacts,
    ) -> None:
        self._model, self._view, self._source, self._read_images = model, view, source, read_images
        self._trunk = trunk_of(model)
        self._taps = self._resolved(taps)
        self.settings = {"view": asdict(view)}
        # The tokens of a change are made from the last block's.
        self._last = Tap("patch", num_blocks(self._trunk) - 1)
        self._reader = TapReader(
            self._trunk, list(dict.fromkeys(self._last if tap == _CHANGE else tap for tap in self._taps))
        )
        self._device = next(model.parameters()).device
        self._positions: list[int] = evenly_spaced(len(source.images), num_images).tolist()
        self._batch_size = batch_size
        outputs = self._run(np.zeros((1, view.size, view.size, 3), np.uint8))
        self.layers = [
            LayerFacts(
                name=str(tap),
                block=self._depth(tap),
                num_tokens=values.shape[1],
                num_channels=values.shape[2],
                # The tokens of a change lie where the last block's do.
                grid=list(token_grid(self._trunk, -1 if tap.block is None else tap.block, view.size)),
            )
            for tap, values in zip(self._taps, outputs, strict=True)
        ]
        self.facts = msgspec.structs.replace(
            facts,
            num_images=len(source.images),
            num_read=len(self._positions),
            num_blocks=num_blocks(self._trunk),
            view_recipe="eval",
            view=asdict(view),
        )

    def batches(self) -> Iterator[list[Tensor]]:
        """See the base class.

        Raises: SourceError when an image cannot be decoded, for every layer must see the same ones.
        """
        for pixels, _, num_bad in self._read_images(self._positions, self._batch_size):
            if num_bad:
                raise SourceError(
                    f"{num_bad} of {len(pixels) + num_bad} images of a batch cannot be decoded",
                    remedy=Remedy.REMOVE_BAD_IMAGES,
                )
            yield self._run(pixels)

    def pictures(self, count: int) -> Pictures:
        """See the base class."""
        positions = [self._positions[at] for at in evenly_spaced(len(self._positions), count).tolist()]
        pixels, _, _ = next(self._read_images(positions, count))
        last = self.layers[-1]
        features = self._run(pixels)[-1].cpu().numpy()
        return Pictures(
            keys=[self._source.images[position].readable_key for position in positions],
            pixels=pixels,
            features=features.reshape(len(features), *last.grid, -1) if last.grid else None,
        )

    def _resolved(self, taps: Sequence[Tap]) -> list[Tap]:
        resolved = sorted({tap.resolve(num_blocks(self._trunk)) for tap in taps}, key=self._depth)
        if not resolved or any(tap.kind not in ("patch", "change") for tap in resolved):
            raise TapError(f"an analysis is of patch tokens, got {', '.join(map(str, taps)) or 'no tap'}")
        if _CHANGE in resolved and not isinstance(self._model, TokenHead):
            raise TapError(
                f"{_CHANGE}: this model makes no tokens of a change, only a student trained with lift does; choose "
                "blocks.N/patch"
            )
        return resolved

    def _depth(self, tap: Tap) -> int:
        return num_blocks(self._trunk) if tap.block is None else tap.block

    def _run(self, pixels: Array) -> list[Tensor]:
        with torch.inference_mode():
            images = torch.from_numpy(pixels).to(self._device)
            images = normalize_pixels(images, mean=self._view.mean, std=self._view.std)
            outputs = self._reader(self._trunk, images)
            if _CHANGE in self._taps:
                assert isinstance(self._model, TokenHead), "refused when the taps were resolved"
                outputs[_CHANGE] = self._model.finish(outputs[self._last])[1]
        return [outputs[tap].float() for tap in self._taps]
