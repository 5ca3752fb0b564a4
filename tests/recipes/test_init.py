"""What holds for every recipe: it builds, trains, and says what it needs."""

from pathlib import Path

import pytest

from kdcache.cache import open_cache
from kdcache.errors import KdcacheError, UsageError
from kdcache.recipes import RECIPES, load_recipe, recipe_notes, recipe_summary
from kdcache.teacher.extract import extract
from kdcache.train import train
from kdcache.train.config import RunConfig
from kdcache.train.setup import prepare
from tests.conftest import tiny_extract
from tests.recipes.support import toy_cache, toy_run


@pytest.fixture(scope="session")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recipes")


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_says_what_was_published_and_what_differs(name: str) -> None:
    assert isinstance(load_recipe(name)(), RunConfig)
    summary = recipe_summary(name)
    assert "ublished" in summary
    assert len(summary) <= 120
    assert "views" in recipe_notes(name)
    assert "Cost:" in recipe_notes(name)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_runs_three_steps(name: str, toys: Path, tmp_path: Path) -> None:
    run = load_recipe(name)()
    summary = train(toy_cache(toys, run), tmp_path / "run", toy_run(run))
    assert summary["steps"] == 3
    assert {term["name"] for term in summary["terms"]} == {term.name for term in run.method.active}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_names_what_a_cache_lacks(name: str, bare: Path) -> None:
    """A cache of one prefix column: runs that read a teacher's logits or tokens say which they want."""
    run = toy_run(load_recipe(name)())
    if not any(term.needs().teacher for term in run.method.active):
        prepare(run, open_cache(bare))
        return
    with pytest.raises(KdcacheError, match=r"no column (for|of)|no .* column|holds"):
        prepare(run, open_cache(bare))


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("recipes") / "bare"
    extract(tiny_extract(root, taps=("blocks.0/prefix:fp16",), views=3))
    return root


def test_unknown_recipes_list_the_known() -> None:
    with pytest.raises(UsageError, match="em-lift-logit-mse"):
        load_recipe("lift")
