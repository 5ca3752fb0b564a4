"""Tokens from a model that is asked anew at every pass."""

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
from kdcache.views import EvalView

# From positions in the source and a batch size: pixels (B, S, S, 3) uint8, labels, and how many could not be decoded.
ReadImages = Callable[[Sequence[int], int], Iterator[tuple[Array, list[int], int]]]


class ModelTokens(TokenSource):
    """What a model says of evenly spaced images, asked again at every pass.

    Args:
        model: A timm model in evaluation mode on its device.
        taps: Patch taps, each of another block.
        view: How it sees images.
        source: The images.
        read_images: Reads some of them in that view; `kdcache.train.eval_images.eval_batches` does.
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
        read_images: ReadImages,
        num_images: int,
        batch_size: int,
        facts: SourceFacts,
    ) -> None:
        resolved = sorted({tap.resolve(num_blocks(model)) for tap in taps}, key=lambda tap: tap.block or 0)
        if not resolved or any(tap.kind != "patch" for tap in resolved):
            raise TapError(f"an analysis is of patch tokens, got {', '.join(map(str, taps)) or 'no tap'}")
        self._model, self._view, self._source, self._read_images = model, view, source, read_images
        self.settings = {"view": asdict(view)}
        self._reader = TapReader(model, resolved)
        self._device = next(model.parameters()).device
        self._positions: list[int] = evenly_spaced(len(source.images), num_images).tolist()
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
        self.facts = msgspec.structs.replace(facts, num_images=len(source.images), num_read=len(self._positions))

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

    def _run(self, pixels: Array) -> list[Tensor]:
        with torch.inference_mode():
            images = torch.from_numpy(pixels).to(self._device)
            said = self._reader(self._model, normalize_pixels(images, mean=self._view.mean, std=self._view.std))
        return [said[tap].float() for tap in self._reader.taps]
