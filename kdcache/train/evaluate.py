"""Top-1 and top-5 of a student on labelled images, seen through its evaluation view."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdcache.distributed.env import WorkerEnv
from kdcache.distributed.process_group import sum_over_ranks
from kdcache.errors import Remedy, SourceError
from kdcache.images import Source, open_for_classes
from kdcache.images.rules import SourceRules
from kdcache.pixels import normalize_pixels
from kdcache.train.eval_images import eval_batches
from kdcache.views import EvalView

TOP = 5
OnLogits = Callable[[list[int], Tensor], None]


@dataclass(frozen=True)
class Accuracy:
    """Fractions of images, in percent, and how many there were.

    Args:
        top1, top5: Percent; with fewer than five classes top5 is over all of them.
        num_images: Images evaluated.
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
    on_logits: OnLogits | None = None,
) -> Accuracy:
    """Evaluate a student; under torchrun the ranks share the images.

    Args:
        student: On the device.
        source: Labelled images.
        view: How they are seen.
        num_classes: K of the student.
        batch_size: Images in one forward.
        device: Where the student is.
        env: This rank.
        threads: Threads that decode.
        on_logits: Called with the positions of some images in the source and their logits (B, K), batch by batch;
            images that cannot be decoded have none.

    Raises: SourceError for unlabelled images or labels the student has no class for.
    """
    check_labels(source, num_classes)
    positions = range(len(source.images))[env.rank :: env.world_size]
    counts = torch.zeros(4, dtype=torch.float64, device=device)
    was_training = student.training
    student.eval()
    with torch.inference_mode():
        for pixels, read, num_bad in eval_batches(source, view, positions, batch_size, threads=threads):
            counts[2] += len(read) + num_bad
            counts[3] += num_bad
            if not read:
                continue
            images = normalize_pixels(torch.from_numpy(pixels).to(device), mean=view.mean, std=view.std)
            wanted = torch.tensor([source.images[position].label for position in read], device=device)
            logits = student(images)
            counts[:2] += count_hits(logits, wanted)
            if on_logits is not None:
                on_logits(read, logits)
    student.train(was_training)
    top1, top5, num_images, num_bad = sum_over_ranks(counts, env).tolist()
    return Accuracy(100 * top1 / num_images, 100 * top5 / num_images, int(num_images), int(num_bad))


def count_hits(logits: Tensor, labels: Tensor) -> Tensor:
    """How many images have their label first, and among the first five.

    Args:
        logits: (B, K).
        labels: (B,) int64.

    Returns: (2,) int64; with fewer than five classes the second is over all of them.
    """
    ranked = logits.float().topk(min(TOP, logits.shape[1]), dim=-1).indices
    hits = ranked == labels.unsqueeze(1)
    return torch.stack([hits[:, 0].sum(), hits.any(dim=1).sum()])


def check_classes(source: Source | None, class_names: Sequence[str]) -> None:
    """Refuse images whose class folders are not those of the training data.

    Raises: SourceError.
    """
    if source is not None and source.class_names and class_names and list(source.class_names) != list(class_names):
        raise SourceError(
            f"the evaluation images have classes {list(source.class_names)[:4]}…, the cache has "
            f"{list(class_names)[:4]}…; class folders must have the same names, or labels would not mean the same"
        )


def open_for_student(
    data: str, class_names: Sequence[str], num_classes: int, rules: SourceRules | None = None
) -> Source:
    """Open labelled images for a student; their classes get its indices.

    Args:
        data: As for `open_source`.
        class_names: Of the student's classes by index; empty where they have no names.
        num_classes: K of the student.
        rules: How the images are read.

    Raises: SourceError, also for classes that cannot be brought together with the student's.
    """
    source = open_for_classes(data, class_names, rules)
    found = len(source.class_names)
    if found and not class_names and found != num_classes:
        raise SourceError(
            f"{data}: the images have {found} classes ({', '.join(source.class_names[:3])}{', …' * (found > 3)}), the "
            f"student has {num_classes} without names, which no label of these images means",
            remedy=Remedy.NAME_STUDENT_CLASSES,
        )
    return source


def check_labels(source: Source, num_classes: int) -> None:
    """Refuse images without labels, or with one that there is no class for.

    Raises: SourceError.
    """
    labels = [image.label for image in source.images]
    bare = [image.key for image in source.images if image.label < 0]
    if len(bare) == len(labels):
        raise SourceError(
            "these images have no labels, so there is no accuracy; give a folder of class folders or .cls"
        )
    if bare:
        raise SourceError(
            f"{len(bare)} of {len(labels)} images have no label, the first is {bare[0]!r}, so there is no accuracy of "
            "them all; label these, or take them away"
        )
    if max(labels) >= num_classes:
        raise SourceError(
            f"label {max(labels)} occurs, the student knows {num_classes} classes",
            remedy=Remedy.OTHER_DATA_OR_CLASSES,
        )
