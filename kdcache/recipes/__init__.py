"""Full runs by name. A recipe is a function without arguments that returns one RunConfig."""

import importlib
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING

from kdcache.config import load_named

if TYPE_CHECKING:
    from kdcache.train.config import RunConfig

# Names only, so that listing them loads nothing: a paper's prefix, and the function of its module.
_PAPERS = {
    "em": (
        "encoding_mismatch",
        """deit_tiny_none deit_tiny_spectral deit_tiny_logit deit_tiny_logit_spectral lift_none lift_none_256
        lift_none_320 lift_none_448 lift_mse lift_logit lift_logit_mse lift_logit_spectral widelast_none
        widelast_mse widelast_logit widelast_logit_mse widelast_logit_spectral widelast_spectral_deit_small
        widelast_spectral_deit3_small uniform_219_none uniform_219_spectral""",
    ),
    "dd": (
        "distillation_dynamics",
        """logit_300 logit_500 spectral_first spectral_last spectral_last_500 spectral_last_half
        spectral_first_last spectral_last_8 projector_first projector_last projector_first_last
        projector_last_trained logit_vit_large spectral_last_vit_large""",
    ),
    "sk": ("spectralkd", "deit_tiny deit_small swin_tiny"),
    "": ("compression", "wecolora_vit_base low_rank_vit_base"),
}
RECIPES = {
    f"{paper}-{function}".strip("-").replace("_", "-"): f"kdcache.recipes.{module}:{function}"
    for paper, (module, functions) in _PAPERS.items()
    for function in functions.split()
}


def load_recipe(name: str) -> "Callable[[], RunConfig]":
    """The function behind a recipe's name.

    Raises: UsageError naming all recipes.
    """
    return load_named(RECIPES, name, "recipe")


def recipe_summary(name: str) -> str:
    """One line: what it is and what was published for it."""
    return (inspect.getdoc(load_recipe(name)) or "").partition("\n")[0]


def recipe_notes(name: str) -> str:
    """What was published, what differs from the published protocol, and what the run costs."""
    module = importlib.import_module(RECIPES[name].partition(":")[0])
    return f"{recipe_summary(name)} {module.DIFFERS} {module.COST}"
