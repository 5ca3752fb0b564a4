"""Who is missing after a collective has failed: the ranks that are left report to the store, the others are named."""

import os
import socket
import time
from typing import final

import torch.distributed as dist

from kdcache.distributed.env import WorkerEnv

# Ranks that are left notice a loss within moments of each other, because each leaves the group before it reports.
ROLL_CALL_S = 5.0
_POLL_S = 0.05


@final
class RollCall:
    """The ranks of a job by what they wrote into its store, which outlives the group.

    Args:
        store: Common to all ranks.
        env: This rank.
    """

    def __init__(self, store: dist.Store, env: WorkerEnv) -> None:
        self._store, self._env = store, env
        store.set(f"place/{env.rank}", f"process {os.getpid()} on {socket.gethostname()}")

    def missing(self, timeout_s: float = ROLL_CALL_S) -> list[int]:
        """The ranks that do not report after a loss; all that are left call this, having left the group.

        Args:
            timeout_s: Seconds after which a rank that has not reported is missing.

        Returns: their numbers; rank 0 alone where its store does not answer.
        """
        end = time.monotonic() + timeout_s
        silent = [rank for rank in range(self._env.world_size) if rank != self._env.rank]
        try:
            self._store.set(f"left/{self._env.rank}", "")
            while silent and time.monotonic() < end:
                time.sleep(_POLL_S)
                silent = [rank for rank in silent if not self._store.check([f"left/{rank}"])]
        except (RuntimeError, ValueError):  # dist.DistError among them
            # Rank 0 keeps the store where no torchrun does. Having reported, it has had its answer and gone.
            return [0] if 0 in silent else silent
        return silent

    def place(self, rank: int) -> str:
        """Where a rank ran, ``process 4711 on node7``; empty where the store does not tell."""
        try:
            name = f"place/{rank}"
            return self._store.get(name).decode("utf-8", "replace") if self._store.check([name]) else ""
        except (RuntimeError, ValueError):
            return ""
