"""The reading stage: image bytes to samples with their views cut, in the order of the plan, several at a time."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from kdcache.cache.facts import ViewFacts
from kdcache.cache.sample import Sample
from kdcache.cache.writer import BadSample
from kdcache.errors import BadImageError, KdcacheError
from kdcache.images import decode_image, decode_pixels, encode_jpeg
from kdcache.ordered_map import ordered_map
from kdcache.teacher.source_plan import SourcePlan
from kdcache.views import ViewRecipe, draw_view, pixel_hash, replay_views


class HungImageError(KdcacheError):
    """An image took longer than allowed; its thread cannot be stopped, so the process must end."""


@dataclass(frozen=True)
class ReadImage:
    """One usable image.

    Args:
        sample: Its record.
        data: The source's bytes.
        extension: Of the file.
        pixels: (K, S, S, 3) uint8, its views as teacher and students see them.
        jpegs: The views as JPEG files, where that is how they are seen; else empty.
    """

    sample: Sample
    data: bytes
    extension: str
    pixels: np.ndarray
    jpegs: tuple[bytes, ...] = ()


class Reader(Protocol):
    """Reads images by number; used by several threads, and by a process that may die (so it can be pickled)."""

    def read(self, number: int) -> ReadImage:
        """One image. Raises: BadImageError with the reason it cannot be used."""
        ...

    def key(self, number: int) -> str:
        """Its key, for messages."""
        ...

    def bad(self, number: int, reason: str) -> BadSample:
        """The ledger's entry for an image that cannot be used. Raises: KdcacheError where there may be none."""
        ...


@dataclass(frozen=True)
class ImageReader:
    """Reads the images of a plan.

    Args:
        plan: Which images.
        recipe: How views are drawn.
        views: How many, with which seed and interpolation.
        shard_samples: Images in a shard.
    """

    plan: SourcePlan
    recipe: ViewRecipe
    views: ViewFacts
    shard_samples: int

    def read(self, number: int) -> ReadImage:
        """Read image `number` of the plan.

        Raises: BadImageError with the reason it cannot be used.
        """
        position, key = self.plan.positions[number], self.plan.keys[number]
        image = self.plan.source.images[position]
        data = self.plan.source.read(position)
        decoded = decode_image(data, self.views.pixel_rule)
        height, width = decoded.pixels.shape[:2]
        drawn = [
            draw_view(self.recipe, seed=self.views.seed, key=key, view=view, width=width, height=height)
            for view in range(self.views.num_views)
        ]
        pixels = replay_views(
            [decoded.pixels] * len(drawn),
            drawn,
            size=self.views.size,
            interpolation=self.views.interpolation,
            mean=self.views.mean,
            std=self.views.std,
        )
        jpegs: tuple[bytes, ...] = ()
        if self.views.jpeg_quality:
            jpegs = tuple(encode_jpeg(each, self.views.jpeg_quality) for each in pixels)
            pixels = np.stack([decode_pixels(each) for each in jpegs])
        sample = Sample(
            key=key,
            source_key=image.key,
            label=image.label,
            source_sha256=hashlib.sha256(data).hexdigest(),
            size=(width, height),
            mode=decoded.mode,
            orientation=decoded.orientation,
            views=tuple(each.as_integers() for each in drawn),
            pixel_hashes=tuple(pixel_hash(each) for each in pixels),
        )
        return ReadImage(sample, data, image.extension, pixels, jpegs)

    def key(self, number: int) -> str:
        """See Reader."""
        return self.plan.keys[number]

    def bad(self, number: int, reason: str) -> BadSample:
        """See Reader."""
        source_key = self.plan.source.images[self.plan.positions[number]].key
        return BadSample(number % self.shard_samples, self.plan.keys[number], source_key, reason)


def read_shard(
    reader: Reader,
    numbers: Sequence[int],
    quarantined: Mapping[int, str],
    pool: ThreadPoolExecutor,
    *,
    ahead: int,
    timeout_s: float,
) -> Iterator[ReadImage | BadSample]:
    """The images of one shard in order.

    Args:
        reader: Reads one image.
        numbers: Which images.
        quarantined: Images not to touch, by number, with the reason.
        pool: Threads to read with.
        ahead: Images in flight.
        timeout_s: Seconds one image may take.

    Raises: HungImageError, SourceError.
    """

    def read(number: int) -> ReadImage | BadSample:
        if number in quarantined:
            return reader.bad(number, quarantined[number])
        try:
            return reader.read(number)
        except BadImageError as error:
            return reader.bad(number, str(error))

    with closing(ordered_map(read, numbers, pool, ahead=ahead, timeout_s=timeout_s)) as images:
        for number in numbers:
            try:
                image = next(images)
            except FutureTimeoutError:
                raise HungImageError(
                    f"image {reader.key(number)!r} took longer than {timeout_s:g} s; this counts as one attempt. Run "
                    "the same command again: at the third attempt the image is tried alone and quarantined if it still "
                    "hangs"
                ) from None
            yield image
