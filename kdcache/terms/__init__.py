"""Terms of a loss by name; base.py says what a term is."""

import importlib
from typing import TYPE_CHECKING

from kdcache.errors import UsageError

if TYPE_CHECKING:
    from kdcache.terms.base import Term

# Names and first lines only, so that listing them loads nothing.
TERMS = {
    "cross-entropy": ("kdcache.terms.cross_entropy:CrossEntropy", "the labels"),
    "logits": ("kdcache.terms.logits:Logits", "the teacher's class distribution, from dense or top-k logits"),
    "tokens": ("kdcache.terms.tokens:Tokens", "token by token: mse, smooth_l1, l1, cosine or normalized_mse"),
    "spectral": ("kdcache.terms.spectral:Spectral", "2-D spectra of the patch maps, for any two widths (SpectralKD)"),
    "projector": ("kdcache.terms.projector:Projector", "projected tokens, both sides batch-normalised (ProjectorKD)"),
    "gram": ("kdcache.terms.gram:Gram", "cosines between an image's tokens, for any two widths (DINOv3)"),
    "token-similarity": (
        "kdcache.terms.token_similarity:TokenSimilarity",
        "softmax of the cosines between an image's tokens, for any two widths (LightlyTrain)",
    ),
    "unic": ("kdcache.terms.unic:Unic", "several teachers, well matched ones dropped at random (UNIC)"),
}


def load_term(name: str) -> "type[Term]":
    """The class behind a term's name.

    Raises: UsageError naming all terms.
    """
    if name not in TERMS:
        raise UsageError(f"unknown term {name!r}; there are {', '.join(TERMS)}")
    module, _, attribute = TERMS[name][0].partition(":")
    return getattr(importlib.import_module(module), attribute)
