from pathlib import Path

import pytest
import torch

from kdcache.cache import open_cache
from kdcache.errors import CacheMismatchError, UsageError
from kdcache.methods.base import Method
from kdcache.methods.feature import feature
from kdcache.methods.lift import lift
from kdcache.models import create_timm_model
from kdcache.stream.config import StreamConfig
from kdcache.stream.loader import CacheLoader
from kdcache.teacher.extract import extract
from kdcache.teacher.online import online_teachers
from kdcache.train import train
from kdcache.train.folder import save_weights
from tests.conftest import GROUP, TEACHER, TEACHER_KWARGS, tiny_extract
from tests.train.support import losses, tiny_run

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def exact_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache without loss: everything in fp32."""
    root = tmp_path_factory.mktemp("caches") / "exact"
    extract(tiny_extract(root, taps=("blocks.-1/patch:fp32", "head/logits:fp32"), precision="fp32"))
    return root


def test_the_targets_are_the_caches(exact_root: Path) -> None:
    cache = open_cache(exact_root)
    loader = CacheLoader(cache, cache.columns, StreamConfig(batch_size=4, num_threads=1))
    targets = online_teachers(cache, cache.columns, CPU)
    for batch in loader:
        found = targets(batch)
        assert found.keys() == batch.targets.keys()
        for name, stored in batch.targets.items():
            torch.testing.assert_close(found[name].decode(), stored.decode(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", [lift(), feature(loss="cosine")], ids=["lift", "feature"])
def test_a_run_beside_its_teacher_has_the_losses_of_the_cache(exact_root: Path, tmp_path: Path, method: Method) -> None:
    config = tiny_run("data.codec=none", "optimizer.lr=1e-2", method=method)
    cached = train(exact_root, tmp_path / "cached", config)
    settings = ("data.codec=none", "optimizer.lr=1e-2", "online=true")
    online = train(exact_root, tmp_path / "online", tiny_run(*settings, method=method), load_teachers=online_teachers)
    for one, two in zip(losses(tmp_path / "cached"), losses(tmp_path / "online"), strict=True):
        assert two == pytest.approx(one, rel=1e-5, abs=1e-6)
        assert two["tokens"] > 0
    assert (cached["teacher"], online["teacher"]) == ("cache", "online")
    assert (cached["target_bytes_per_view"] > 0, online["target_bytes_per_view"]) == (True, 0)


def test_a_coded_column_is_computed_without_its_codec(tiny_root: Path) -> None:
    cache = open_cache(tiny_root)
    column = cache.find_column(kind="patch", tap="blocks.-1/patch", codec="int8")
    batch = next(iter(CacheLoader(cache, [column], StreamConfig(batch_size=4, num_threads=1))))
    found = online_teachers(cache, [column], CPU)(batch)[column.name]
    assert found.payload().scale is None
    error = (found.decode() - batch.targets[column.name].decode()).norm() / found.decode().norm()
    assert 0 < error < 0.02


def test_the_run_keeps_its_threads(tiny_root: Path) -> None:
    cache = open_cache(tiny_root)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert cache.groups[GROUP].manifest.fingerprint.teacher.cpu_threads == 1
        online_teachers(cache, cache.columns, CPU)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_weights_that_are_not_those_of_the_cache(tiny_root: Path, tmp_path: Path) -> None:
    cache = open_cache(tiny_root)
    with pytest.raises(UsageError, match=f"weights of group other would be ignored: the run reads {GROUP}"):
        online_teachers(cache, cache.columns, CPU, weights={"other": "hub"})
    save_weights(tmp_path / "w.safetensors", create_timm_model(TEACHER, kwargs=TEACHER_KWARGS))
    with pytest.raises(CacheMismatchError, match="made with weights"):
        online_teachers(cache, cache.columns, CPU, weights={GROUP: str(tmp_path / "w.safetensors")})
