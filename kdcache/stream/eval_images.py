"""Images of a source as a model is judged on them: one view each, nothing drawn at random."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from kdcache.errors import BadImageError
from kdcache.images import Source, decode_image
from kdcache.views import ViewRecipe, draw_view, replay_view


@dataclass(frozen=True, kw_only=True)
class EvalView:
    """How a student sees an image when it is judged.

    Args:
        size: S.
        crop_pct: Share of the resized image that is seen.
        interpolation: Name of the resize filter.
        mean, std: Of the normalisation.
    """

    size: int
    crop_pct: float
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def eval_batches(
    source: Source, view: EvalView, positions: Sequence[int], batch_size: int, threads: int
) -> Iterator[tuple[np.ndarray, list[int], int]]:
    """Images as an evaluation sees them, decoded ahead in threads.

    Args:
        source: The images.
        view: How they are seen.
        positions: Which of them, in this order.
        batch_size: Images in a batch, undecodable ones included.
        threads: That decode.

    Yields: pixels (B, S, S, 3) uint8, the label of each, and how many of the batch could not be decoded.
    """
    recipe = ViewRecipe(name="eval", size=view.size, crop_pct=view.crop_pct)

    def read(position: int) -> np.ndarray | None:
        try:
            image = decode_image(source.read(position)).rgb
            drawn = draw_view(recipe, seed=0, key="", view=0, width=image.width, height=image.height)
            return replay_view(image, drawn, size=view.size, interpolation=view.interpolation)
        except BadImageError:
            return None

    with ThreadPoolExecutor(threads, thread_name_prefix="kdcache-eval") as pool:
        ahead: deque[tuple[Sequence[int], list[Future[np.ndarray | None]]]] = deque()
        starts = iter(range(0, len(positions), batch_size))
        while True:
            while len(ahead) < 2 and (start := next(starts, None)) is not None:
                part = positions[start : start + batch_size]
                ahead.append((part, [pool.submit(read, position) for position in part]))
            if not ahead:
                return
            part, futures = ahead.popleft()
            read_all = [
                (source.images[position].label, future.result()) for position, future in zip(part, futures, strict=True)
            ]
            good = [(label, pixels) for label, pixels in read_all if pixels is not None]
            stacked = np.stack([pixels for _, pixels in good]) if good else np.empty(0, np.uint8)
            yield stacked, [label for label, _ in good], len(part) - len(good)
