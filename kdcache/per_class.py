"""Few-shot subsets: the same number, or the same fraction, of the images of every class.

The images of a class are put in a seeded order and the first are kept, as WeCoLoRA does (arXiv:2404.09326). The order
ranks hashes of seed and key, so a larger subset of one seed holds the smaller, and a class draws the same images
whatever classes stand beside it. These are not the images of WeCoLoRA's own seed, whose generator is another.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction

from kdcache.errors import UsageError
from kdcache.seeds import derived_key

_COUNT, _PERCENT = re.compile(r"[1-9]\d*"), re.compile(r"(\d+(?:\.\d+)?)%")


def check_per_class(text: str) -> None:
    """Raises: ValueError for what is neither a count (``5``) nor a fraction (``1%``, ``0.5%``)."""
    match = _PERCENT.fullmatch(text)
    if _COUNT.fullmatch(text) is None and (match is None or not 0 < Fraction(match[1]) <= 100):
        raise ValueError(f"per_class must be a number of images (5) or a fraction of each class (1%), got {text!r}")


def check_subset(per_class: str | None, seed: int | None) -> None:
    """Raises: ValueError as `check_per_class`, and for a seed that would be ignored."""
    if per_class is not None:
        check_per_class(per_class)
    elif seed is not None:
        raise ValueError(f"per_class_seed={seed} would be ignored: per_class is not set")


def few_shot(
    labels: Sequence[int], keys: Sequence[str], *, per_class: str, seed: int, class_names: Sequence[str] = ()
) -> list[int]:
    """Positions of the images that are kept, ascending.

    Classes are those that occur; a class that no image has is not missed.

    Args:
        labels, keys: Of every image; below 0 is no label.
        per_class: ``N`` images, or ``P%`` of each class, rounded down.
        seed: Of the order within each class.
        class_names: For messages; may be empty.

    Raises: ValueError as `check_per_class`; UsageError where an image has no label, or a class would keep none or has
        fewer than N.
    """
    check_per_class(per_class)
    if unlabelled := sum(label < 0 for label in labels):
        raise UsageError(
            f"per_class={per_class} counts images by label, and {unlabelled} of {len(labels)} images have none"
        )
    classes: defaultdict[int, list[int]] = defaultdict(list)
    for position, label in enumerate(labels):
        classes[label].append(position)
    match = _PERCENT.fullmatch(per_class)
    wanted = {
        label: int(per_class) if match is None else int(len(held) * Fraction(match[1]) / 100)
        for label, held in sorted(classes.items())
    }
    if short := [label for label, count in wanted.items() if not 0 < count <= len(classes[label])]:
        name = f" ({class_names[short[0]]})" if short[0] < len(class_names) else ""
        more = f" (and {len(short) - 1} more like it)" if len(short) > 1 else ""
        held = len(classes[short[0]])
        images = "1 image" if held == 1 else f"{held} images"
        problem = f"fewer than {per_class}" if match is None else f"{per_class} of them is none"
        raise UsageError(f"class {short[0]}{name} has {images}, {problem}{more}; choose another per_class")
    kept: list[int] = []
    for label, held in classes.items():
        held.sort(key=lambda position: derived_key("per class", seed, keys[position]))
        kept += held[: wanted[label]]
    return sorted(kept)
