from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.synthetic_cache import SyntheticCache, write_cache
from kdcache.analysis.cache_tokens import CacheTokens, choose_columns
from kdcache.analysis.diagnosis import StudentShape
from kdcache.analysis.result import Analysis, Curves
from kdcache.analysis.run import AnalyzeConfig, analyze, measure_checkpoint
from kdcache.cache import Cache, open_cache
from kdcache.cache.statistics import TokenStatistics
from kdcache.errors import BadRecordError, Remedy, UsageError
from kdcache.teacher.extract import extract
from tests.analysis.synthetic import CHANNELS, GLOBAL_RANK, OWN_RANK, feature_cache, known_rank_image
from tests.conftest import GROUP, tiny_extract

CPU = torch.device("cpu")


def analysed(
    cache: Cache, *, images: int = 1000, batch_size: int = 7, config: AnalyzeConfig | None = None
) -> tuple[Analysis, Curves]:
    columns, left_out = choose_columns(cache, None)
    source = CacheTokens(cache, columns, num_images=images, batch_size=batch_size, device=CPU)
    return analyze(source, config or AnalyzeConfig(permutations=3), device=CPU, left_out=left_out)


def test_known_ranks_are_recovered_exactly(tmp_path: Path) -> None:
    """Every image of rank 3, all of them in 9 directions: own, shared and centred dimensions to the last one."""
    analysis, _ = analysed(feature_cache(tmp_path / "cache", known_rank_image, 50))
    ranks = analysis.layers[0].ranks
    assert ranks is not None
    assert ranks.numerical is not None
    assert ranks.shared is not None
    assert (ranks.numerical.mean, ranks.numerical.std) == (OWN_RANK, 0)
    # Three equal singular values hold a third each.
    assert list(ranks.per_image) == ["80", "90", "95", "99"]
    assert {(each.mean, each.p99) for each in ranks.per_image.values()} == {(OWN_RANK, OWN_RANK)}
    assert ranks.all_tokens["99"] == GLOBAL_RANK
    assert ranks.shared["99"].p99 == GLOBAL_RANK
    assert ranks.max_rank == 12


def test_a_basis_of_equal_directions_crosses_every_level_where_it_must(tmp_path: Path) -> None:
    """Tokens along single axes, ten of twenty equally often: 80 % of the energy is in 8 dimensions of 10."""

    def axes(number: int) -> np.ndarray:
        image = np.zeros((12, CHANNELS), np.float32)
        image[np.arange(12), (np.arange(12) + number) % 10] = 2
        return image

    analysis, curves = analysed(feature_cache(tmp_path / "cache", axes, 50))
    ranks, sep = analysis.layers[0].ranks, analysis.layers[0].sep
    assert ranks is not None
    assert ranks.all_tokens == {"80": 8, "90": 9, "95": 10, "99": 10}
    assert sep is not None
    assert sep.sorted_channels is not None
    assert sep.sorted_channels.bins["90"] == 1
    np.testing.assert_allclose(curves["layers/0/ranks/all_tokens"][:10], np.arange(1, 11) / 10)


def test_everything_about_a_cache(tiny_cache: Cache) -> None:
    config = AnalyzeConfig(permutations=3, student=StudentShape("tiny", 8, 2))
    analysis, curves = analysed(tiny_cache, config=config)
    assert [layer.name for layer in analysis.layers] == ["blocks.0/patch", "blocks.1/patch"]
    assert analysis.layers[1].codec == "fp16"
    assert analysis.left_out[:2] == [
        f"{GROUP}/blocks-1-patch-int8: same tap as {GROUP}/blocks-1-patch-fp16, which loses less",
        f"{GROUP}/blocks-1-patch-bf16: same tap as {GROUP}/blocks-1-patch-fp16, which loses less",
    ]
    assert len(analysis.left_out) == 5
    assert analysis.source.num_read == 20
    assert analysis.diagnosis is not None
    assert analysis.diagnosis.layer == "blocks.1/patch"
    assert analysis.depth == {}, "two layers make no profile"
    assert analysis.made_from["ranks of all tokens"] == "stored second moments of all 40 views"
    assert analysis.made_from["spatial spectrum"] == "records of 20 of 20 images"
    assert analysis.made_from["dynamics"] == (
        "records of 20 of 20 images; the range of the entropy: stored second moments of all 40 views"
    )
    assert analysis.seconds["reading"] > 0
    assert curves["records/pixels"].shape == (6, 16, 16, 3)
    assert curves["records/colours"].shape == (6, 4, 4, 3)
    for number in range(2):
        assert curves[f"layers/{number}/dynamics/channel_spectrum"].shape == (13,)
        for name in ("ranks/per_image", "ranks/shared", "ranks/all_tokens", "sep/full/mean", "sep/folded/mean"):
            curve = curves[f"layers/{number}/{name}"]
            assert curve[-1] == pytest.approx(1, abs=1e-6)
            assert (np.diff(curve) >= -1e-9).all()


def test_the_size_of_batches_changes_nothing(tiny_cache: Cache) -> None:
    one, many = (analysed(tiny_cache, batch_size=size)[0] for size in (1, 20))
    for first, second in zip(one.layers, many.layers, strict=True):
        assert first.ranks == second.ranks
        assert first.dynamics is not None
        assert second.dynamics is not None
        assert first.dynamics.entropy_bits == pytest.approx(second.dynamics.entropy_bits, abs=1e-9)
        assert first.dynamics.intensity == pytest.approx(second.dynamics.intensity, rel=1e-6)


def test_stored_statistics_alone(tiny_cache: Cache) -> None:
    """Nothing is read, and what needs the tokens is absent and said so."""
    full, _ = analysed(tiny_cache)
    stored, _ = analysed(tiny_cache, images=0, config=AnalyzeConfig(permutations=3, pictures=False))
    for wanted, found in zip(full.layers, stored.layers, strict=True):
        assert wanted.ranks is not None
        assert found.ranks is not None
        assert found.sep is not None
        assert wanted.sep is not None
        assert found.ranks.all_tokens == wanted.ranks.all_tokens
        assert found.ranks.per_image.keys() == wanted.ranks.per_image.keys()
        assert found.sep.full.bins == wanted.sep.full.bins
        assert (found.ranks.shared, found.sep.sorted_spectrum, found.sep.full.per_token, found.dynamics) == (None,) * 4
    assert "dynamics" not in stored.made_from
    assert stored.made_from["ranks of each image"] == "stored singular values of 20 of 20 images"


def test_a_cache_without_second_moments_is_read_twice(tmp_path: Path, tiny_cache: Cache) -> None:
    extract(replace(tiny_extract(tmp_path / "light"), statistics="light"))
    light = open_cache(tmp_path / "light")
    seen: list[tuple[int, int, str]] = []
    columns, left_out = choose_columns(light, None)
    source = CacheTokens(light, columns, num_images=1000, batch_size=8, device=CPU)
    found, _ = analyze(
        source,
        AnalyzeConfig(permutations=3),
        device=CPU,
        left_out=left_out,
        on_progress=lambda *each: seen.append(each),
    )
    assert seen[0] == (8, 40, "second moments")
    assert seen[-1] == (40, 40, "measuring")
    assert found.made_from["ranks of all tokens"] == "records of 20 of 20 images"
    wanted, _ = analysed(tiny_cache)
    for first, second in zip(wanted.layers, found.layers, strict=True):
        assert first.ranks is not None
        assert second.ranks is not None
        # The stored moments are over both views of each image, these over the first.
        assert first.ranks.per_image == second.ranks.per_image
    with pytest.raises(UsageError, match="light statistics") as caught:
        analysed(light, images=0)
    assert caught.value.remedy is Remedy.READ_RECORDS


def test_tokens_of_zeros_are_counted_and_break_nothing(tmp_path: Path) -> None:
    def features(number: int) -> np.ndarray:
        image = known_rank_image(number)
        image[: 12 if number == 3 else 2] = 0
        return image

    analysis, curves = analysed(feature_cache(tmp_path / "cache", features, 20))
    layer = analysis.layers[0]
    assert layer.sep is not None
    assert layer.sep.num_zero_tokens == 19 * 2 + 12
    assert all(np.isfinite(values).all() for name, values in curves.items() if "records" not in name)


@pytest.mark.slow
def test_memory_does_not_grow_with_images_or_shards(tmp_path: Path) -> None:
    import tracemalloc

    caches = [feature_cache(tmp_path / f"{count}", known_rank_image, count) for count in (64, 640)]
    peaks: list[int] = []
    analysed(caches[0], batch_size=10)
    for cache in caches:
        tracemalloc.start()
        analysed(cache, batch_size=10, config=AnalyzeConfig(permutations=1, pictures=False))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 200_000


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e25])
def test_what_is_not_finite_is_refused_by_name(tmp_path: Path, bad: float) -> None:
    """Extraction refuses such records; a model or another program may say them, and squares may overflow."""

    class Bad(CacheTokens):
        def batches(self) -> Iterator[list[torch.Tensor]]:
            for features in super().batches():
                features[0][0, 0, 0] = bad
                yield features

    cache = feature_cache(tmp_path / "cache", known_rank_image, 20, statistics="light")
    columns, _ = choose_columns(cache, None)
    source = Bad(cache, columns, num_images=20, batch_size=8, device=CPU)
    with pytest.raises(BadRecordError, match=r"cache: blocks.0/patch has values that are not finite"):
        analyze(source, AnalyzeConfig(pictures=False), device=CPU, left_out=[])
    if bad != 1e25:
        with pytest.raises(BadRecordError, match="some weights: blocks"):
            measure_checkpoint(source, "some weights")


def test_a_batch_without_images_changes_nothing(tmp_path: Path) -> None:
    class Gaps(CacheTokens):
        def batches(self) -> Iterator[list[torch.Tensor]]:
            for features in super().batches():
                yield [each[:0] for each in features]
                yield features

    cache = feature_cache(tmp_path / "cache", known_rank_image, 20, statistics="light")
    columns, _ = choose_columns(cache, None)
    config = AnalyzeConfig(permutations=2, pictures=False)
    found = []
    for kind in (CacheTokens, Gaps):
        source = kind(cache, columns, num_images=20, batch_size=8, device=CPU)
        analysis, _ = analyze(source, config, device=CPU, left_out=[])
        found.append((analysis.layers, measure_checkpoint(source, "some weights")))
    assert found[0] == found[1]


def test_a_layer_of_zeros_has_nothing_to_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # No such cache is finished any more.
    monkeypatch.setattr(TokenStatistics, "refuse_constant", lambda self, where: None)
    cache = feature_cache(tmp_path / "cache", lambda _: np.zeros((12, CHANNELS), np.float32), 20)
    config = AnalyzeConfig(permutations=2, student=StudentShape("tiny", 8, 2))
    for images in (20, 0):
        analysis, _ = analysed(cache, images=images, config=replace(config, pictures=images > 0))
        layer = analysis.layers[0]
        assert (layer.ranks, layer.sep, analysis.diagnosis) == (None, None, None)
        assert analysis.left_out == ["diagnosis for tiny: blocks.0/patch has no energy"]


@pytest.mark.parametrize("shape", [(1, CHANNELS), (12, 1), (1, 1), (12, 3)], ids=str)
def test_shapes_at_the_edge(tmp_path: Path, shape: tuple[int, int]) -> None:
    """One token, one channel, both, an odd few; constant features too."""
    synthetic = SyntheticCache(
        num_records=9,
        shape=shape,
        codec="fp32",
        features=lambda number: (
            known_rank_image(number)[: shape[0], : shape[1]] if number % 2 else np.ones(shape, "f4")
        ),
        statistics="full",
    )
    write_cache(synthetic, tmp_path / "cache")
    analysis, curves = analysed(open_cache(tmp_path / "cache"))
    ranks = analysis.layers[0].ranks
    assert ranks is not None
    assert ranks.max_rank == min(shape)
    assert ranks.per_image["99"].p99 <= min(shape)
    assert all(np.isfinite(values).all() for values in curves.values() if values.dtype.kind == "f")


def test_impossible_settings() -> None:
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        AnalyzeConfig(permutations=-1)
