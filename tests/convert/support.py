"""What the tests of conversions share."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

from kdcache import durable


def killed_at(step: int, work: Callable[[], object]) -> bool:
    """Do work in a process that SIGKILLs itself at its nth durable step. Returns: whether it got so far."""
    pid = os.fork()
    if pid == 0:
        remaining = [step]

        def on_step(name: str, path: Path) -> None:
            remaining[0] -= 1
            if not remaining[0]:
                os.kill(os.getpid(), signal.SIGKILL)

        durable.on_step = on_step
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)
