"""The pooled feature of a teacher without classifier, from the teacher pass to the loss."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdcache.cache import Cache, open_cache
from kdcache.cli.main import main
from kdcache.errors import TapError
from kdcache.stream.config import StreamConfig
from kdcache.stream.loader import CacheLoader
from kdcache.teacher.extract import extract
from kdcache.teacher.reading import ImageReader
from kdcache.teacher.rerun import rerun_teacher
from tests.cache.support import all_faults
from tests.conftest import TEACHER_KWARGS, tiny_extract

HEADLESS = {
    "vit": {"teacher_kwargs": {**TEACHER_KWARGS, "num_classes": 0}},
    "convnet": {"teacher": "mobilenetv3_small_050", "teacher_kwargs": {"num_classes": 0}, "image_size": 32},
}
TAPS = ("blocks.-1/patch", "head/embedding", "head/embedding:fp32", "head/embedding:int8")


@pytest.fixture(scope="module", params=HEADLESS)
def cache(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    root = tmp_path_factory.mktemp(request.param) / "c"
    extract(tiny_extract(root, **HEADLESS[request.param], taps=TAPS, group="teacher"))
    return open_cache(root)


def named(cache: Cache, codec: str) -> Any:
    [column] = [each for each in cache.columns if (each.kind, each.codec) == ("embedding", codec)]
    return column


def test_it_is_whole_and_a_fresh_teacher_agrees(cache: Cache) -> None:
    assert all_faults(cache.paths.root) == []
    cpu = torch.device("cpu")
    results = list(rerun_teacher(cache, cache.groups["teacher"], 3, weights=None, data=None, device=cpu))
    assert [result.fault() for result in results] == [None] * (3 * 2 * len(TAPS))
    exact = [result.relative_error for result in results if result.column == named(cache, "fp32")]
    assert len(exact) == 6
    assert max(exact) < 1e-5


def test_batches_decode_to_what_the_codec_decodes(cache: Cache) -> None:
    columns = [named(cache, codec) for codec in ("fp32", "fp16", "int8")]
    config = StreamConfig(batch_size=5, shuffle=False, images="none", num_threads=1)
    shard = cache.manifest.shards[0]
    seen: dict[str, list[torch.Tensor]] = {column.name: [] for column in columns}
    for batch in CacheLoader(cache, columns, config):
        for name, targets in batch.clone().targets.items():
            seen[name].append(targets.decode())
    bounds = {"fp32": 0.0, "fp16": 2.0**-11, "int8": 1 / 250}
    for column in columns:
        streamed = torch.cat(seen[column.name])
        width = column.shape[0]
        assert streamed.shape == (20, width)
        stored = column.make_codec().decode(cache.strided(column, shard).fields(), (width,))
        ours = {tuple(row) for row in stored.tolist()}
        assert all(tuple(row) in ours for row in streamed[:8].tolist())
        exact = torch.cat(seen[columns[0].name])
        error = (streamed - exact).abs().amax(dim=1)
        assert (error <= bounds[column.codec] * exact.abs().amax(dim=1) + 1e-7).all()


def test_the_index_has_its_mean_and_extremes(cache: Cache) -> None:
    column = named(cache, "fp32")
    shard = cache.manifest.shards[0]
    stored = column.make_codec().decode(cache.strided(column, shard).fields(), tuple(column.shape)).astype(np.float64)
    index = cache.group_index(cache.groups["teacher"], shard).columns[column.facts.name]
    np.testing.assert_allclose(index.statistics.mean, stored.mean(axis=0), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(index.statistics.m2 / len(stored), stored.var(axis=0), rtol=1e-4, atol=1e-12)
    np.testing.assert_array_equal(index.statistics.maximum, stored.max(axis=0))
    assert index.statistics.raw_moment.shape == (0, 0)


def test_show_names_it(cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(cache.paths.root)]) == 0
    assert f"teacher/head-embedding-int8: head/embedding, {named(cache, 'int8').shape[0]}\n" in capsys.readouterr().out


def test_verify_reruns_its_teacher(cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(cache.paths.root), "--rerun-teacher", "2"]) == 0
    assert "error" not in capsys.readouterr().err


@pytest.mark.parametrize("headless", HEADLESS.values(), ids=HEADLESS.keys())
def test_logits_of_no_classifier_are_refused_before_an_image_is_read(
    headless: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    monkeypatch.setattr(ImageReader, "read", lambda self, number: read.append(number))
    with pytest.raises(TapError, match=r"no classifier \(num_classes=0\).*use head/embedding"):
        extract(tiny_extract(tmp_path / "c", **headless, taps=("blocks.-1/patch", "head/logits")))
    assert read == []
    assert not list((tmp_path / "c").rglob("*.tar"))
