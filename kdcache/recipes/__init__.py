"""Full runs by name. A recipe is a function without arguments that returns one RunConfig."""

import importlib
from collections.abc import Callable
from typing import Any

from kdcache.errors import UsageError

# Names only, so that listing them loads nothing.
RECIPES = {
    "standalone-deit-tiny": "kdcache.recipes.deit_tiny:standalone",
    "softkd-deit-tiny-cait-s24": "kdcache.recipes.deit_tiny:softkd",
    "feature-deit-tiny-cait-s24": "kdcache.recipes.deit_tiny:feature",
    "lift-deit-tiny-cait-s24": "kdcache.recipes.deit_tiny:lift",
    "lift-standalone-deit-tiny": "kdcache.recipes.deit_tiny:lift_standalone",
    "widelast-deit-tiny-cait-s24": "kdcache.recipes.deit_tiny:widelast",
}


def load_recipe(name: str) -> Callable[[], Any]:
    """The function behind a recipe's name.

    Raises: UsageError naming all recipes.
    """
    if name not in RECIPES:
        raise UsageError(f"unknown recipe {name!r}; there are {', '.join(RECIPES)}")
    module, _, function = RECIPES[name].partition(":")
    return getattr(importlib.import_module(module), function)
