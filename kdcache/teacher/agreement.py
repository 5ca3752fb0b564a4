"""Do the cached logits know the labels? How often their largest class is the label, read from what was written."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kdcache.cache.cache import Cache
from kdcache.cache.facts import SourceFacts
from kdcache.cache.group import GroupFingerprint
from kdcache.reading.reader import ShardReader

MAX_IMAGES = 10_000
# Up to this many times what guessing gives, labels and logits seem to have nothing to do with each other.
_NEAR_CHANCE = 3.0


@dataclass(frozen=True)
class Agreement:
    """One column of logits against the labels.

    Args:
        column: ``group/column``.
        fraction: Of the images whose largest logit (of the first view) is that of the label.
        num_images: Labelled images that were read, evenly spaced.
        num_classes: K, of the logits.
        num_labels: Classes of the labels.
    """

    column: str
    fraction: float
    num_images: int
    num_classes: int
    num_labels: int

    @property
    def is_near_chance(self) -> bool:
        """Whether guessing would do about as well: more likely another order of classes than a bad teacher."""
        return self.num_classes > _NEAR_CHANCE and self.fraction * self.num_classes <= _NEAR_CHANCE


def other_classes_text(source: SourceFacts, groups: Mapping[str, GroupFingerprint]) -> str:
    """A note where labels and logits of a pass are of other classes, as `train` sees it; empty where they are not.

    Args:
        source: The images with the labels; `num_classes` 0 for none.
        groups: What the pass writes, by name.
    """
    for name, group in groups.items():
        for column in group.columns:
            num_logits = column.shape[0]
            if column.kind != "logits" or source.num_classes in (0, num_logits) or source.is_part_of(num_logits):
                continue
            return (
                f"the labels have {source.num_classes} classes, the teacher's logits {num_logits} ({name}): a student "
                "can learn from the labels or from the logits, not both on one head, unless a class map gives "
                "the labels the teacher's numbers"
            )
    return ""


def label_agreement(cache: Cache) -> list[Agreement]:
    """Compare every column of logits with the labels.

    Args:
        cache: A finished cache.

    Returns: nothing for images without labels, or a cache without logits.
    """
    num_labels = cache.manifest.fingerprint.source.num_classes
    columns = [column for column in cache.columns if column.kind == "logits"]
    found: list[Agreement] = []
    if not columns or not num_labels:
        return found
    reader = ShardReader(cache, columns, check="size")
    total = cache.manifest.num_samples
    count = min(total, MAX_IMAGES)
    labelled: list[tuple[int, list[int]]] = []
    for sample in (number * total // count for number in range(count)):
        shard, row = reader.locate(sample)
        label = int(shard.index.labels[row])
        if label >= 0:
            logits = (reader.decode_record(shard, row, 0, column) for column in columns)
            labelled.append((label, [int(np.argmax(each)) for each in logits]))
    if not labelled:
        return found
    for number, column in enumerate(columns):
        hits = sum(label == largest[number] for label, largest in labelled)
        share = hits / len(labelled)
        found.append(Agreement(column.name, share, len(labelled), column.shape[0], num_labels))
    return found
