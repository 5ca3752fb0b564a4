"""Finding the image that kills or hangs the pass: each is tried alone, in a process that may die."""

import multiprocessing
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection

from kdcache.errors import BadImageError, KdcacheError

MAX_ATTEMPTS = 3
# Past this many attempts the images are not to blame, or the probe would have found one.
GIVE_UP_ATTEMPTS = 8


def find_poison(read: Callable[[int], object], numbers: Sequence[int], *, timeout_s: float) -> dict[int, str]:
    """Try images one after the other in a child process and name those that take it down.

    Args:
        read: Reads one image; must be picklable. That it refuses an image is harmless: the pass handles that itself.
        numbers: Images to try.
        timeout_s: Seconds one image may take.

    Returns: {number: reason} of the images that killed the child or did not come back.
    Raises: KdcacheError where an image could not be tried: nothing is known about it then.
    """
    poison: dict[int, str] = {}
    remaining = list(numbers)
    context = multiprocessing.get_context("spawn")
    while remaining:
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=_try_each, args=(read, remaining, sender), daemon=True)
        child.start()
        sender.close()
        try:
            done, reason = _await_messages(receiver, len(remaining), timeout_s)
        finally:
            child.kill()
            child.join()
        if reason == "died":
            reason = f"killed the process that read it (exit code {child.exitcode})"
        if done < len(remaining) and reason:
            poison[remaining[done]] = reason
            done += 1
        remaining = remaining[done:]
    return poison


def _await_messages(receiver: Connection, count: int, timeout_s: float) -> tuple[int, str]:
    """How many images came back, and what stopped the child before the next one."""
    done = -1  # the child's first message means that it has started
    while done < count:
        # Starting a process imports the whole program; that must not count against an image.
        if not receiver.poll(timeout_s if done >= 0 else timeout_s + 120):
            return max(done, 0), f"did not finish within {timeout_s:g} s"
        try:
            failure = receiver.recv()
        except EOFError:
            return max(done, 0), "died"
        if failure:
            raise KdcacheError(f"the images of this shard cannot be tried one by one: {failure}")
        done += 1
    return count, ""


def _try_each(read: Callable[[int], object], numbers: Sequence[int], sender: Connection) -> None:
    sender.send("")
    for number in numbers:
        failure = ""
        try:
            read(number)
        except BadImageError:
            pass  # an image that is refused does not kill the pass
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
        sender.send(failure)
