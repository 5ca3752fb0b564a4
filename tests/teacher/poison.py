"""Images that kill or hang whoever reads them; imported by the child processes of test_quarantine."""

import os
import signal
import time

import numpy as np

from kdcache.cache.sample import Sample
from kdcache.cache.writer import BadSample
from kdcache.errors import BadImageError
from kdcache.images import Source, decode_image
from kdcache.teacher.reading import ReadImage

KILLS, HANGS, REFUSED, BROKEN = 3, 5, 6, 20


def read(number: int) -> int:
    if number == KILLS:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == HANGS:
        time.sleep(600)
    if number == REFUSED:
        raise BadImageError("a bad image, but a harmless one")
    if number == BROKEN:
        raise OSError("Illegal seek")
    return number


def decode(source: Source, number: int) -> None:
    decode_image(source.read(number))


class PoisonedReader:
    """Images whose pixels are their numbers, but for those that `read` has trouble with; 5 is a good one here."""

    def read(self, number: int) -> ReadImage:
        if number != HANGS:
            read(number)
        sample = Sample(
            key=self.key(number), source_key="", label=0, source_sha256="0" * 64, size=(4, 4), mode="RGB",
            orientation=1, views=(), pixel_hashes=(),
        )  # fmt: skip
        return ReadImage(sample, b"", "", np.full((1, 4, 4, 3), number, np.uint8))

    def key(self, number: int) -> str:
        return str(number)

    def bad(self, number: int, reason: str) -> BadSample:
        return BadSample(number, self.key(number), "", reason)
