import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError, URLError

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError

from kdcache.errors import ModelError, Remedy
from kdcache.models import hub
from kdcache.models.hub import hub_file, hub_problem

COMMIT = "0" * 40


@pytest.fixture(autouse=True)
def _asks_again() -> Iterator[None]:
    hub_problem.cache_clear()
    yield
    hub_problem.cache_clear()


def put_into_hub_cache(cache: Path, model_id: str, files: dict[str, bytes]) -> None:
    """The files of a model as the hub's library keeps them after a download."""
    root = cache / f"models--{model_id.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    for name, data in files.items():
        path = root / "snapshots" / COMMIT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_without_a_network_the_cache_is_enough(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    put_into_hub_cache(hub_cache, "org/name", {"pytorch_model.bin": b"1", "model.safetensors": b"2"})
    assert hub_file("org/name", ["model.safetensors", "pytorch_model.bin"]).read_bytes() == b"2"
    assert hub_file(f"org/name@{COMMIT}", ["nothing", "pytorch_model.bin"]).read_bytes() == b"1"
    with pytest.raises(ModelError, match=r"config.json is not in .*hub\), and HF_HUB_OFFLINE") as caught:
        hub_file("org/name", ["config.json"])
    assert caught.value.remedy is Remedy.LOCAL_MODEL
    with pytest.raises(ModelError, match="is not in the local cache") as caught:
        hub_file("org/other", ["model.safetensors"])
    assert caught.value.remedy is Remedy.LOCAL_WEIGHTS


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (URLError(OSError("no such host")), "https://hub.test cannot be reached (no such host)"),
        (TimeoutError("timed out"), "https://hub.test cannot be reached (timed out)"),
        (HTTPError("https://hub.test", 503, "busy", {}, None), ""),
    ],
)
def test_whether_the_hub_answers(error: Exception, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.test")
    monkeypatch.setattr("urllib.request.urlopen", ask)
    assert hub_problem() == problem


def test_a_hub_that_never_answers_costs_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_TIMEOUT_S", 0.2)
    monkeypatch.setattr(hub, "_ask", lambda _: time.sleep(2))
    began = time.monotonic()
    assert "no answer within 0.2 s" in hub_problem()
    assert hub_problem() is hub_problem(), "asked once"
    assert time.monotonic() - began < 1


def test_what_the_hub_has_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(repository: str, name: str, *, revision: str | None) -> str:
        assert (repository, revision) == ("org/name", "v2")
        if name != "pytorch_model.bin":
            raise EntryNotFoundError("404")
        (tmp_path / name).touch()
        return str(tmp_path / name)

    monkeypatch.setattr(hub, "hub_problem", lambda: "")
    monkeypatch.setattr(hub, "hf_hub_download", download)
    assert hub_file("org/name@v2", ["model.safetensors", "pytorch_model.bin"]) == tmp_path / "pytorch_model.bin"
    with pytest.raises(ModelError, match=r"it has no config\.json, so it is not a model that timm saved"):
        hub_file("org/name@v2", ["config.json"])


def test_what_the_hub_refuses_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("401 Client Error\n\nPlease log in")

    monkeypatch.setattr(hub, "hub_problem", lambda: "")
    monkeypatch.setattr(hub, "hf_hub_download", refuse)
    with pytest.raises(ModelError, match=r"\Ahf-hub:org/name: 401 Client Error\Z"):
        hub_file("org/name", ["config.json"])
