"""Images that kill or hang whoever reads them; imported by the child processes of test_quarantine."""

import os
import signal
import time

from kdcache.errors import BadImageError
from kdcache.images import Source, decode_image

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
