"""A decoder that never returns for some bytes, and one that takes the process down for others; for subprocesses."""

import os
import signal
import time
from typing import Any

from PIL import Image

_open = Image.open


def _hostile(file: Any, *arguments: Any, **options: Any) -> Any:
    head = file.getvalue()[:6] if hasattr(file, "getvalue") else b""
    if head == b"SLEEPS":
        time.sleep(3600)
    if head == b"DEADLY":
        os.kill(os.getpid(), signal.SIGKILL)
    return _open(file, *arguments, **options)


Image.open = _hostile
