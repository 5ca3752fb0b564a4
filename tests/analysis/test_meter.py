import numpy as np
import pytest
import torch

from kdcache.analysis.meter import DimsMeter, LayerMeter, Stopwatch, value_range
from kdcache.analysis.tokens import LayerFacts
from kdcache.cache.statistics import TokenStatistics

CPU = torch.device("cpu")


def test_seconds_add_up_by_name() -> None:
    stopwatch = Stopwatch(CPU)
    for name in ("one", "two", "one"):
        with stopwatch(name):
            pass
    assert set(stopwatch.seconds) == {"one", "two"}
    assert min(stopwatch.seconds.values()) >= 0


def test_empty_images_do_not_count() -> None:
    meter = DimsMeter(4)
    assert meter.spreads() is None
    meter.update(torch.tensor([[4.0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]))
    spreads = meter.spreads()
    assert spreads is not None
    assert (spreads["99"].mean, spreads["80"].mean) == (2.5, 2.5)
    np.testing.assert_allclose(meter.curve(), [0.625, 0.75, 0.875, 1])


@pytest.mark.parametrize("grid", [[], [2, 3]])
def test_a_layer_with_and_without_a_grid(random: np.random.Generator, grid: list[int]) -> None:
    features = random.standard_normal((5, 6, 10)).astype(np.float32)
    statistics = TokenStatistics(10, with_moments=True)
    statistics.update(features)
    facts = LayerFacts(name="blocks.0/patch", block=0, num_tokens=6, num_channels=10, grid=grid)
    limits = value_range([statistics])
    assert limits == (features.min(), features.max())
    meter = LayerMeter(facts, statistics, value_range=limits, device=CPU, stopwatch=Stopwatch(CPU))
    meter.update(torch.from_numpy(features))
    layer, curves = meter.result(permutations=2, seed=0)
    assert ("spatial/frequency" in curves) == bool(grid)
    assert layer.ranks is not None
    assert layer.ranks.max_rank == 6
    assert layer.dynamics is not None
    assert layer.dynamics.magnitude == pytest.approx(np.abs(features).mean(), rel=1e-6)


@pytest.mark.parametrize("grid", [[], [2, 3]])
def test_a_layer_without_images_says_nothing(grid: list[int]) -> None:
    statistics = TokenStatistics(10, with_moments=True)
    statistics.update(np.zeros((0, 6, 10), np.float32))
    limits = value_range([statistics])
    assert limits == (0.0, 0.0) == value_range([])
    facts = LayerFacts(name="blocks.0/patch", block=0, num_tokens=6, num_channels=10, grid=grid)
    meter = LayerMeter(facts, statistics, value_range=limits, device=CPU, stopwatch=Stopwatch(CPU))
    meter.update(torch.zeros(0, 6, 10))
    layer, curves = meter.result(permutations=2, seed=0)
    assert (layer.ranks, layer.sep, layer.dynamics, curves) == (None, None, None, {})


def test_a_batch_without_images_changes_nothing(random: np.random.Generator) -> None:
    features = random.standard_normal((5, 6, 10)).astype(np.float32)
    facts = LayerFacts(name="blocks.0/patch", block=0, num_tokens=6, num_channels=10, grid=[2, 3])
    found = []
    for sizes in ([5], [0, 5, 0]):
        statistics = TokenStatistics(10, with_moments=True)
        for size in sizes:
            statistics.update(features[:size])
        limits = value_range([statistics])
        meter = LayerMeter(facts, statistics, value_range=limits, device=CPU, stopwatch=Stopwatch(CPU))
        for size in sizes:
            meter.update(torch.from_numpy(features[:size]))
        found.append(meter.result(permutations=2, seed=0))
    assert found[0][0] == found[1][0]
    for name, curve in found[0][1].items():
        np.testing.assert_array_equal(found[1][1][name], curve)
