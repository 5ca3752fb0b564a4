"""Do the cached logits know the labels? How often their largest class is the label, read from what was written."""

from dataclasses import dataclass

import numpy as np

from kdcache.cache.cache import Cache
from kdcache.stream.reader import ShardReader

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
        num_classes: K, of logits and labels.
    """

    column: str
    fraction: float
    num_images: int
    num_classes: int

    @property
    def is_near_chance(self) -> bool:
        """Whether guessing would do about as well: more likely another order of classes than a bad teacher."""
        return self.num_classes > _NEAR_CHANCE and self.fraction * self.num_classes <= _NEAR_CHANCE


def label_agreement(cache: Cache) -> list[Agreement]:
    """Compare every column of logits that has as many classes as the labels.

    Args:
        cache: A finished cache.

    Returns: nothing for images without labels, or for logits of other classes.
    """
    num_classes = cache.manifest.fingerprint.source.num_classes
    columns = [column for column in cache.columns if column.kind == "logits" and column.shape[0] == num_classes]
    found: list[Agreement] = []
    if not columns:
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
        found.append(Agreement(column.name, hits / len(labelled), len(labelled), num_classes))
    return found
