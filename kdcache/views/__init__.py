"""Views: drawn as integers, replayed as pixels."""

from kdcache.views.draw import RECIPES, ViewRecipe, draw_view
from kdcache.views.evaluation import EvalView
from kdcache.views.params import VIEW_FIELDS, ViewParams
from kdcache.views.randaugment import AUGMENT_INTERPOLATIONS
from kdcache.views.replay import pixel_hash, replay_view, replay_views
from kdcache.views.resample import INTERPOLATIONS

__all__ = [
    "AUGMENT_INTERPOLATIONS",
    "INTERPOLATIONS",
    "RECIPES",
    "VIEW_FIELDS",
    "EvalView",
    "ViewParams",
    "ViewRecipe",
    "draw_view",
    "pixel_hash",
    "replay_view",
    "replay_views",
]
