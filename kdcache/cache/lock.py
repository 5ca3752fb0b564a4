"""One job at a time on a cache; the workers of that job hold the lock together.

`flock` is released when a holder dies, even by kill -9. A guard lock makes "see who holds it, then join" one step.
On file systems without flock between machines (NFS, Lustre) this protects the processes of one machine only.
"""

import fcntl
import os
import secrets
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from kdcache.durable import write_file
from kdcache.errors import CacheBusyError, CorruptCacheError
from kdcache.storage import read_regular, storage_errors
from kdcache.strict_json import dump_json, load_json


@dataclass(frozen=True)
class Holder:
    """Who holds a cache. `token` is drawn for each job, so that a worker can tell it has been superseded."""

    job_id: str
    token: str
    host: str
    pid: int
    started: str


class JobLock:
    """Held by every worker of a job for as long as the object is open.

    Args:
        folder: The cache's job folder; it must exist.
        job_id: Equal for the workers of one job, different for any other job.
        action: What a job does there, for messages.

    Raises: CacheBusyError when another job is alive.

    Attributes:
        holder: The job's first worker.
        is_first: Whether this worker opened the job (nobody else was alive).
    """

    def __init__(self, folder: Path, job_id: str, *, action: str = "writes to this cache") -> None:
        self._action = action
        self._record = folder / "holder.json"
        with storage_errors(folder, "lock"):
            self._lock = _open(folder / "lock")
            guard = _open(folder / "guard")
        try:
            with storage_errors(folder, "lock"):
                fcntl.flock(guard, fcntl.LOCK_EX)
            previous = self._read()
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.is_first = True
            except BlockingIOError:
                self.is_first = False
            if self.is_first:
                self.holder = _this_process(job_id)
                write_file(self._record, dump_json(asdict(self.holder)))
            elif previous is None or previous.job_id != job_id:
                raise CacheBusyError(_busy(folder, previous, action))
            else:
                self.holder = previous
            fcntl.flock(self._lock, fcntl.LOCK_SH)
        except BaseException:
            os.close(self._lock)
            raise
        finally:
            os.close(guard)

    def check(self) -> None:
        """Refuse to continue when another job has taken over.

        Raises: CacheBusyError.
        """
        current = self._read()
        if current is None or current.token != self.holder.token:
            raise CacheBusyError(_busy(self._record.parent, current, self._action))

    def close(self) -> None:
        """Leave the job."""
        os.close(self._lock)

    def _read(self) -> Holder | None:
        if not self._record.is_file():
            return None
        try:
            return msgspec.convert(load_json(read_regular(self._record), where=str(self._record)), Holder)
        except (CorruptCacheError, msgspec.ValidationError):
            return None  # damaged: whoever has the lock is unknown, and is not us


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)


def _this_process(job_id: str) -> Holder:
    started = time.strftime("%Y-%m-%d %H:%M:%S %z")
    return Holder(job_id, secrets.token_hex(16), socket.gethostname(), os.getpid(), started)


def _busy(folder: Path, holder: Holder | None, action: str) -> str:
    who = f"host {holder.host}, pid {holder.pid}, since {holder.started}" if holder else "an unknown process"
    return f"{folder.parent}: another job {action} ({who}); wait for it or stop it, then run this again"
