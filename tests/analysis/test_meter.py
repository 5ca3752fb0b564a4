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
