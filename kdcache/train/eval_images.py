"""Images of a source as a model is evaluated on them, decoded ahead in threads."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice

import numpy as np

from kdcache.errors import BadImageError
from kdcache.images import Source, decode_image
from kdcache.ordered_map import ordered_map
from kdcache.views import EvalView


def eval_batches(
    source: Source, view: EvalView, positions: Sequence[int], batch_size: int, *, threads: int = 2
) -> Iterator[tuple[np.ndarray, list[int], int]]:
    """Yield batches of images; the next one is decoded while a batch is in use.

    Args:
        source: The images.
        view: How they are seen.
        positions: Which of them, in this order.
        batch_size: Images in a batch, undecodable ones included.
        threads: Threads that decode.

    Yields: pixels (B, S, S, 3) uint8, the position of each, and how many of the batch could not be decoded.
    """

    def read(position: int) -> np.ndarray | None:
        try:
            return view.pixels(decode_image(source.read(position), view.pixel_rule).rgb)
        except BadImageError:
            return None

    with (
        ThreadPoolExecutor(threads, thread_name_prefix="kdcache-eval") as pool,
        closing(ordered_map(read, positions, pool, ahead=2 * batch_size)) as images,
    ):
        for start in range(0, len(positions), batch_size):
            part = positions[start : start + batch_size]
            read_all = zip(part, islice(images, len(part)), strict=True)
            good = [(position, pixels) for position, pixels in read_all if pixels is not None]
            stacked = np.stack([pixels for _, pixels in good]) if good else np.empty(0, np.uint8)
            yield stacked, [position for position, _ in good], len(part) - len(good)
