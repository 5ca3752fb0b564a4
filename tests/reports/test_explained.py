"""R² and its floor, against the tokens of a real cache."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdcache.cache import Cache, open_cache
from kdcache.cache.record import Array
from kdcache.reading.reader import ShardReader
from kdcache.reports.explained import Explained, Explainer, unexplained_beyond
from kdcache.reports.inputs import CacheInput, RunInput, read_inputs
from kdcache.reports.run_terms import feature_terms
from kdcache.teacher.extract import extract
from tests.conftest import tiny_extract
from tests.reports.synthetic_runs import COLUMN, write_run

# Channels of the synthetic runs' student.
WIDTH = 6


def tokens_of(cache: Cache) -> Array:
    """(T, C) of all views, float64."""
    column = cache.column(COLUMN)
    reader = ShardReader(cache, [column], access="read", check="size")
    records = [[sample, view] for sample in range(cache.manifest.num_samples) for view in range(cache.num_views)]
    decoded = reader.decode(np.array(records))[column.name]
    return decoded.reshape(-1, decoded.shape[-1]).astype(np.float64)


def run_on(cache: Cache, folder: Path, **changes: Any) -> RunInput:
    names = ["vit-tiny-patch16-224/head-logits-fp16", COLUMN]
    digest = cache.identity([cache.column(name) for name in names])
    (run,) = read_inputs([write_run(folder, cache=digest, **changes)]).runs
    return run


def explained(cache: Cache | None, run: RunInput) -> Explained:
    caches = [] if cache is None else [CacheInput("cache", cache, [])]
    (term,) = feature_terms(run)
    return Explainer(caches).explain(run, term)


def with_loss(run: RunInput, loss: float) -> RunInput:
    assert run.summary is not None
    run.summary["terms"][-1]["loss"] = loss
    return run


def test_the_best_map_of_the_students_rank_meets_the_floor(tiny_cache: Cache, tmp_path: Path) -> None:
    """A student that does the best an affine map from 6 channels can, by an SVD of the tokens themselves."""
    tokens = tokens_of(tiny_cache)
    centred = tokens - tokens.mean(axis=0)
    _, _, vectors = np.linalg.svd(centred, full_matrices=False)
    best = centred @ vectors[:WIDTH].T @ vectors[:WIDTH]
    loss = float(np.square(centred - best).mean())
    found = explained(tiny_cache, with_loss(run_on(tiny_cache, tmp_path / "r"), loss))
    assert found.width == WIDTH
    assert found.variance == pytest.approx(tokens.var(axis=0).mean(), rel=1e-5)
    assert found.r2 == pytest.approx(1 - loss / tokens.var(axis=0).mean(), rel=1e-5)
    assert found.floor is not None
    assert 0.001 < found.floor < 0.6
    assert found.r2 is not None
    assert 1 - found.r2 == pytest.approx(found.floor, rel=1e-3)
    assert found.remark == ""


def test_the_mean_token_everywhere_explains_nothing(tiny_cache: Cache, tmp_path: Path) -> None:
    tokens = tokens_of(tiny_cache)
    loss = float(np.square(tokens - tokens.mean(axis=0)).mean())
    found = explained(tiny_cache, with_loss(run_on(tiny_cache, tmp_path / "r"), loss))
    assert found.r2 == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("transform", ["none", "mean", "standardize", "phi-s"])
def test_transformed_targets_have_their_own_variance(tiny_cache: Cache, tmp_path: Path, transform: str) -> None:
    tokens = tokens_of(tiny_cache)
    scale = {"standardize": tokens.std(axis=0), "phi-s": np.sqrt(tokens.var(axis=0).mean())}.get(transform, 1.0)
    scaled = tokens / scale
    energies = np.square(np.linalg.svd(scaled - scaled.mean(axis=0), compute_uv=False))
    found = explained(tiny_cache, run_on(tiny_cache, tmp_path / "r", term={"transform": transform}))
    assert found.variance == pytest.approx(scaled.var(axis=0).mean(), rel=1e-5)
    assert found.floor == pytest.approx(energies[WIDTH:].sum() / energies.sum(), rel=1e-3)


def test_a_widened_last_block_is_not_bound(tiny_cache: Cache, tmp_path: Path) -> None:
    found = explained(tiny_cache, run_on(tiny_cache, tmp_path / "r", method="widelast"))
    assert found.width == WIDTH
    assert found.floor is not None
    assert "the floor does not bind it" in found.remark


@pytest.mark.parametrize(
    ("term", "reason"),
    [
        ({"loss": "cosine"}, "its loss is cosine"),
        ({"adapter": "pool"}, "adapter=pool compares other values"),
        ({"resize": "teacher"}, "its targets are resized"),
        ({"transform": "layer-norm"}, "its targets are normalised token by token"),
        ({"name": "gram"}, "gram is no mean squared error"),
    ],
)
def test_other_losses_say_why_there_is_none(
    tiny_cache: Cache, tmp_path: Path, term: dict[str, Any], reason: str
) -> None:
    found = explained(tiny_cache, run_on(tiny_cache, tmp_path / "r", term=term))
    assert reason in found.remark
    assert (found.r2, found.floor, found.variance) == (None, None, None)


def test_several_columns_and_no_logged_step(tiny_cache: Cache, tmp_path: Path) -> None:
    run = run_on(tiny_cache, tmp_path / "r")
    assert run.summary is not None
    run.summary["terms"][-1]["columns"] = [COLUMN, COLUMN]
    assert "a mean over 2 columns" in explained(tiny_cache, run).remark
    run.summary["terms"][-1] |= {"columns": [COLUMN], "loss": None}
    assert "logged no step" in explained(tiny_cache, run).remark


def test_the_cache_must_be_the_run_s_own(tiny_cache: Cache, tmp_path: Path) -> None:
    run = run_on(tiny_cache, tmp_path / "r")
    assert "add the cache's folder" in explained(None, run).remark
    other = read_inputs([write_run(tmp_path / "other", cache="00" * 32)]).runs[0]
    assert "add the cache's folder" in explained(tiny_cache, other).remark


def test_light_statistics_give_no_floor(tmp_path: Path) -> None:
    extract(tiny_extract(tmp_path / "light"))
    full = open_cache(tmp_path / "light")
    extract(tiny_extract(tmp_path / "lighter", statistics="light"))
    light = open_cache(tmp_path / "lighter")
    wanted = explained(full, run_on(full, tmp_path / "a"))
    found = explained(light, run_on(light, tmp_path / "b"))
    assert found.r2 == pytest.approx(wanted.r2)
    assert found.floor is None
    assert "light statistics" in found.remark


def test_a_student_that_is_not_known_has_r2_without_a_floor(tiny_cache: Cache, tmp_path: Path) -> None:
    run = run_on(tiny_cache, tmp_path / "r")
    run.record["config"]["student"] = "no_such_model"
    found = explained(tiny_cache, run)
    assert found.r2 is not None
    assert (found.floor, found.remark) == (None, "the student's width is not known")


def test_what_lies_beyond_a_width() -> None:
    covariance = np.diag([4.0, 3.0, 2.0, 1.0])
    assert [unexplained_beyond(covariance, width) for width in (0, 1, 3, 4, 9)] == pytest.approx([1, 0.6, 0.1, 0, 0])
