import builtins
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from kdcache.errors import MissingExtraError, RankLostError, UsageError
from kdcache.teacher.ray.cluster import RayCluster, connected, import_ray, lost, lost_reason, placement


def fake(*, cpus: int, gpus: int = 0, machines: int = 1) -> Any:
    """The module ray as far as a placement asks it."""
    nodes = [{"Alive": True, "Resources": {"CPU": cpus / machines}} for _ in range(machines)]
    nodes += [{"Alive": False, "Resources": {"CPU": 64.0}}, {"Alive": True, "Resources": {}}]
    resources = {"CPU": float(cpus)} | ({"GPU": float(gpus)} if gpus else {})
    return SimpleNamespace(cluster_resources=lambda: resources, nodes=lambda: nodes)


def test_the_address_is_what_was_asked_for_or_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert RayCluster().where == "local"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert RayCluster().where == "10.0.0.1:6379"
    assert RayCluster(address="local").where == "local"


@pytest.mark.parametrize("address", ["ray://head:10001", "head", "", "head:", ":6379", "http://head:8265"])
def test_addresses_of_other_kinds_are_refused(address: str) -> None:
    with pytest.raises(ValueError, match="must be HOST:PORT, auto or local"):
        RayCluster(address=address)


def test_no_actors_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        RayCluster(num_actors=0)


@pytest.mark.parametrize(
    ("ray", "device", "num_actors", "found"),
    [
        (fake(cpus=64, gpus=8, machines=2), "auto", None, (8, "cuda")),
        (fake(cpus=64, gpus=8, machines=2), "cuda", 3, (3, "cuda")),
        (fake(cpus=64, gpus=8, machines=2), "cpu", None, (2, "cpu")),
        (fake(cpus=64, machines=4), "auto", None, (4, "cpu")),
        (fake(cpus=64, machines=4), "auto", 64, (64, "cpu")),
    ],
)
def test_one_actor_for_each_gpu_or_else_for_each_machine(
    ray: Any, device: str, num_actors: int | None, found: tuple[int, str]
) -> None:
    place = placement(ray, RayCluster(num_actors=num_actors), device, has_teacher=True)
    assert (place.num_actors, place.device) == found
    assert place.resources["num_gpus"] == (1 if place.device == "cuda" else 0)


def test_pixels_alone_need_no_gpu() -> None:
    assert placement(fake(cpus=8, gpus=8), RayCluster(), "auto", has_teacher=False).device == "cpu"


@pytest.mark.parametrize(
    ("device", "num_actors", "message"),
    [
        ("cuda", None, "the Ray cluster has 0 GPUs, 1 are wanted"),
        ("cpu", 9, "the Ray cluster has 8 CPUs, 9 are wanted"),
        ("cuda:1", None, "device 'cuda:1': Ray chooses among the GPUs itself; wanted auto, cpu or cuda"),
    ],
)
def test_what_the_cluster_has_not_is_refused(device: str, num_actors: int | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        placement(fake(cpus=8), RayCluster(num_actors=num_actors), device, has_teacher=True)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = builtins.__import__

    def missing(name: str, *rest: Any, **more: Any) -> Any:
        if name == "ray":
            raise ImportError(name=name)
        return plain(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingExtraError, match=r"needs ray, which is not installed: pip install 'kdcache\[ray\]'"):
        import_ray()


def test_an_address_where_nobody_answers_is_refused_soon() -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with (
        pytest.raises(UsageError, match=f"Ray cluster 127.0.0.1:{port}: no answer"),
        connected(RayCluster(address=f"127.0.0.1:{port}")),
    ):
        pass


# Ray's words, from its 2.60.
_NO_TOKEN = "Token authentication is enabled but no authentication token was found. Ensure that ..."
_OTHER_TOKEN = "RPC error: InvalidAuthToken: Authentication token is missing or incorrect. Note: ..."


class _RayError(Exception):
    """As ray.exceptions.RayError, no RuntimeError."""


def _not_connected(cause: str) -> ConnectionError:
    error = ConnectionError("Failed to connect to Ray cluster at 10.0.0.1:6379")
    error.__cause__ = RuntimeError(cause)
    return error


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (_RayError(_NO_TOKEN), "copy `~/.ray/auth_token`"),
        (_not_connected(_OTHER_TOKEN), "copy `~/.ray/auth_token`"),
        (_not_connected("Connection refused"), "start one with `ray start`"),
    ],
)
def test_a_cluster_that_wants_its_token_is_told_from_one_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, error: Exception, advice: str
) -> None:
    def init(*_: Any, **__: Any) -> None:
        raise error

    ray = SimpleNamespace(
        is_initialized=lambda: False, init=init, shutdown=lambda: None, exceptions=SimpleNamespace(RayError=_RayError)
    )
    monkeypatch.setattr("kdcache.teacher.ray.cluster.import_ray", lambda: ray)
    with pytest.raises(UsageError, match=f"^Ray cluster auto: .+; .*{advice}"), connected(RayCluster(address="auto")):
        pass


def test_the_reason_is_one_sentence() -> None:
    text = (
        "The actor died unexpectedly before finishing this task.\n\tclass_name: A\n"
        "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: ..."
    )
    assert lost_reason(Exception(text)) == "The actor is dead because its worker process has died"
    assert lost_reason(Exception("gone.\nmore")) == "gone"
    assert isinstance(lost("while it slept", "gone"), RankLostError)
