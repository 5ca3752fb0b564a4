"""Images that kill or hang whoever reads them; imported by the child processes of test_quarantine."""

import os
import signal
import time

KILLS, HANGS, RAISES = 3, 5, 6


def read(number: int) -> int:
    if number == KILLS:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == HANGS:
        time.sleep(600)
    if number == RAISES:
        raise ValueError("a bad image, but a harmless one")
    return number
