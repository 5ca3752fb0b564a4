"""Top-1 and top-5 of a student on labelled images, seen through its evaluation view."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from kdcache.distributed.env import WorkerEnv
from kdcache.distributed.process_group import sum_over_ranks
from kdcache.errors import BadImageError, SourceError
from kdcache.images import Source, decode_image
from kdcache.pixels import normalize_pixels
from kdcache.views import ViewRecipe, draw_view, replay_view

_TOP = 5


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


@dataclass(frozen=True)
class Accuracy:
    """Shares of images, in percent, and how many there were.

    Args:
        top1, top5: Percent; with fewer than five classes top5 is over all of them.
        num_images: Images judged.
        num_bad: Images that could not be decoded; they count as wrong.
    """

    top1: float
    top5: float
    num_images: int
    num_bad: int


def evaluate(
    student: nn.Module,
    source: Source,
    view: EvalView,
    *,
    num_classes: int,
    batch_size: int,
    device: torch.device,
    env: WorkerEnv,
    threads: int = 2,
) -> Accuracy:
    """Judge a student; under torchrun the ranks share the images.

    Raises: SourceError for unlabelled images or labels the student has no class for.
    """
    _check_labels(source, num_classes)
    positions = range(len(source.images))[env.rank :: env.world_size]
    counts = torch.zeros(4, dtype=torch.float64, device=device)
    was_training = student.training
    student.eval()
    with torch.inference_mode():
        for pixels, labels, num_bad in _batches(source, view, positions, batch_size, threads):
            counts[2] += len(labels) + num_bad
            counts[3] += num_bad
            if not labels:
                continue
            images = normalize_pixels(torch.from_numpy(pixels).to(device), mean=view.mean, std=view.std)
            wanted = torch.tensor(labels, device=device)
            ranked = student(images).float().topk(min(_TOP, num_classes), dim=-1).indices
            hits: Tensor = ranked == wanted.unsqueeze(1)
            counts[0] += hits[:, 0].sum()
            counts[1] += hits.any(dim=1).sum()
    student.train(was_training)
    top1, top5, num_images, num_bad = sum_over_ranks(counts, env).tolist()
    return Accuracy(100 * top1 / num_images, 100 * top5 / num_images, int(num_images), int(num_bad))


def check_classes(source: Source | None, class_names: Sequence[str]) -> None:
    """Refuse images whose class folders are not those of the training data.

    Raises: SourceError.
    """
    if source is not None and source.class_names and class_names and list(source.class_names) != list(class_names):
        raise SourceError(
            f"the evaluation images have classes {list(source.class_names)[:4]}…, the cache has "
            f"{list(class_names)[:4]}…; class folders must have the same names, or labels would not mean the same"
        )


def _check_labels(source: Source, num_classes: int) -> None:
    labels = [image.label for image in source.images]
    if min(labels) < 0:
        raise SourceError(
            "these images have no labels, so there is no accuracy; give a folder of class folders or .cls"
        )
    if max(labels) >= num_classes:
        raise SourceError(
            f"label {max(labels)} occurs, the student knows {num_classes} classes; evaluate on the data set it was "
            "trained for, or train with --set num_classes=..."
        )


def _batches(
    source: Source, view: EvalView, positions: Sequence[int], batch_size: int, threads: int
) -> Iterator[tuple[np.ndarray, list[int], int]]:
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
