"""The Ray cluster of a pass: connected to or started, and how many actors it has room for."""

import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kdcache.errors import MissingExtraError, RankLostError, UsageError

_ANSWER_S = 5.0
# Only events and manifests pass through it; what does not fit goes to a disk.
_OBJECT_STORE_BYTES = 256 << 20


@dataclass(frozen=True, kw_only=True)
class RayCluster:
    """Where a pass runs.

    Args:
        address: HOST:PORT of a cluster's head, ``auto`` for the cluster that this machine is part of, or ``local`` for
            one that is started here and ends with the pass; None takes RAY_ADDRESS, and ``local`` where that is unset.
        num_actors: Workers; None for one for each GPU, or without GPUs one for each machine.

    Raises: ValueError.
    """

    address: str | None = None
    num_actors: int | None = None

    def __post_init__(self) -> None:
        if self.num_actors is not None and self.num_actors < 1:
            raise ValueError(f"ray_actors must be at least 1, got {self.num_actors}")
        host, _, port = self.where.rpartition(":")
        if self.where not in ("auto", "local") and ("/" in host or not host or not port.isdecimal()):
            raise ValueError(f"the address of a Ray cluster must be HOST:PORT, auto or local, got {self.where!r}")

    @property
    def where(self) -> str:
        """HOST:PORT, auto or local."""
        return os.environ.get("RAY_ADDRESS") or "local" if self.address is None else self.address


@dataclass(frozen=True)
class Placement:
    """How many actors there are, and where the teacher runs in each.

    Args:
        num_actors: Workers.
        device: cpu or cuda.
    """

    num_actors: int
    device: str

    @property
    def resources(self) -> dict[str, Any]:
        """What one actor asks Ray for."""
        return {"num_cpus": 0, "num_gpus": 1} if self.device == "cuda" else {"num_cpus": 1, "num_gpus": 0}


def import_ray() -> Any:
    """The module ray. Raises: MissingExtraError."""
    # Read when Ray starts: nothing is reported, a pass without a GPU changes no CUDA_VISIBLE_DEVICES, and actors have
    # the niceness of any process. Ray's is 15, where all other work on the machine starves them.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError(
            f"a pass on a Ray cluster needs {error.name}, which is not installed: pip install 'kdcache[ray]'"
        ) from None
    return ray


@contextmanager
def connected(cluster: RayCluster) -> Generator[Any]:
    """The module ray, connected for the duration of the block; a connection that is there already is used and kept.

    Raises: MissingExtraError, UsageError where no cluster answers.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    _require_answer(cluster.where)
    own: dict[str, Any] = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
    try:
        ray.init(cluster.where, log_to_driver=False, logging_level="ERROR", **(own if cluster.where == "local" else {}))
    except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
        reason = _first_line(error).split(". ", 1)[0]
        raise UsageError(f"Ray cluster {cluster.where}: {reason}; {_what_to_do(error)}") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def placement(ray: Any, cluster: RayCluster, device: str, *, has_teacher: bool) -> Placement:
    """How many actors a connected cluster has.

    Args:
        ray: The module, connected.
        cluster: What was asked for.
        device: As in ExtractConfig.
        has_teacher: Whether a teacher runs; pixels alone need no GPU.

    Raises: UsageError for a device that Ray does not give, and for more than the cluster has.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"device {device!r}: Ray chooses among the GPUs itself; wanted auto, cpu or cuda")
    total = ray.cluster_resources()
    num_gpus = int(total.get("GPU", 0))
    if has_teacher and (device == "cuda" or (device == "auto" and num_gpus)):
        return Placement(_fitting(cluster.num_actors, num_gpus, num_gpus, "GPU"), "cuda")
    machines = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    return Placement(_fitting(cluster.num_actors, len(machines), int(total.get("CPU", 0)), "CPU"), "cpu")


def lost_reason(error: BaseException) -> str:
    """Why an actor is gone, in one sentence of Ray's."""
    lines = [line for line in str(error).splitlines() if " because " in line] or [_first_line(error)]
    return lines[0].split(". ", 1)[0].strip().rstrip(".")


def lost(what: str, reason: str) -> RankLostError:
    """The error of a pass that has lost its workers.

    Args:
        what: Which they did.
        reason: Why the last one is gone.
    """
    return RankLostError(
        f"a Ray actor ended {what} ({reason}); what was finished is safe. Look at the memory of its machine and at the "
        "logs of Ray there (/tmp/ray/session_latest/logs), then run the same command again to resume"
    )


def _fitting(wanted: int | None, usual: int, most: int, what: str) -> int:
    num_actors = usual if wanted is None else wanted
    if not 1 <= num_actors <= most:
        raise UsageError(f"the Ray cluster has {most} {what}s, {max(num_actors, 1)} are wanted, one for each actor")
    return num_actors


def _require_answer(where: str) -> None:
    """Ray itself would try for two minutes, and then end this process."""
    host, _, port = where.rpartition(":")
    if not host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise UsageError(f"Ray cluster {where}: no answer ({error}); start one with `ray start`") from None


def _what_to_do(error: BaseException) -> str:
    """By the causes of an error of Ray's: a cluster may answer, and only want its token (Ray 2.52 and newer)."""
    causes = f"{error} {error.__cause__} {error.__context__}"
    if "authentication token" in causes.lower():
        return "it has a token: copy `~/.ray/auth_token` of its head to this machine, or set RAY_AUTH_TOKEN"
    return "start one with `ray start`"


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0]
