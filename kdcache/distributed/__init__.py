"""Ranks, devices, process groups."""

from kdcache.distributed.env import WorkerEnv, worker_env

__all__ = ["WorkerEnv", "worker_env"]
