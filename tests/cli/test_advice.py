"""Every piece of advice is provoked by a real mistake, and followed: then it goes."""

from pathlib import Path

import pytest

from kdcache.errors import Remedy
from tests.cli.advice import of_caches, of_classes, of_extraction, of_training
from tests.cli.advice.world import Scenario, World

SCENARIOS: dict[Remedy, Scenario] = {
    **of_caches.SCENARIOS,
    **of_classes.SCENARIOS,
    **of_extraction.SCENARIOS,
    **of_training.SCENARIOS,
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


def test_all_advice_is_tried() -> None:
    assert SCENARIOS.keys() == set(Remedy)


@pytest.mark.parametrize("remedy", SCENARIOS, ids=lambda remedy: remedy.value)
def test_who_follows_it_succeeds(
    remedy: Remedy, tmp_path: Path, kept: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    SCENARIOS[remedy](World(tmp_path, monkeypatch, kept), request)
