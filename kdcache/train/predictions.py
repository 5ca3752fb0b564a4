"""What a student says of every image, as a table."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import final

from torch import Tensor

from kdcache.durable import write_file
from kdcache.images import Source
from kdcache.train.evaluate import TOP


@final
class PredictionTable:
    """Collects the likeliest classes of evaluated images.

    Args:
        source: The images.
        class_names: Of the student's classes by index; one without a name is a number.
    """

    def __init__(self, source: Source, class_names: Sequence[str]) -> None:
        self._source, self._names = source, class_names
        self._found: dict[int, list[tuple[int, float]]] = {}

    def add(self, positions: list[int], logits: Tensor) -> None:
        """Take some images' logits (B, K)."""
        top = logits.float().softmax(dim=1).topk(min(TOP, logits.shape[1]), dim=1)
        for position, classes, values in zip(positions, top.indices.tolist(), top.values.tolist(), strict=True):
            self._found[position] = list(zip(classes, values, strict=True))

    def write(self, path: Path) -> None:
        """Write CSV: ``key,label``, then ``class1,probability1`` and so on, in the order of the source.

        An image that could not be decoded has a row without classes. Raises: StorageError.
        """
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        ranks = range(1, max(map(len, self._found.values()), default=0) + 1)
        writer.writerow(["key", "label", *(name for rank in ranks for name in (f"class{rank}", f"probability{rank}"))])
        for position, image in enumerate(self._source.images):
            found = self._found.get(position, [])
            cells = [cell for number, value in found for cell in (self._name(number), f"{value:.6g}")]
            writer.writerow([image.key, self._name(image.label), *cells])
        write_file(path, text.getvalue().encode())

    def _name(self, number: int) -> str:
        return self._names[number] if number < len(self._names) else str(number)
