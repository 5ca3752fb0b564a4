"""Terms of a loss by name; base.py says what a term is."""

from typing import TYPE_CHECKING

from kdcache.config import load_named

if TYPE_CHECKING:
    from kdcache.terms.base import Term

# Names and first lines only, so that listing them loads nothing.
TERMS = {
    "cross-entropy": ("kdcache.terms.cross_entropy:CrossEntropy", "the labels"),
    "logits": ("kdcache.terms.logits:Logits", "the teacher's class distribution, from dense or top-k logits"),
    "tokens": (
        "kdcache.terms.tokens:Tokens",
        "token by token: mse, smooth_l1, l1, cosine, normalized_mse or l1_cosine",
    ),
    "spectral": ("kdcache.terms.spectral:Spectral", "2-D spectra of the patch maps, for any two widths (SpectralKD)"),
    "projector": ("kdcache.terms.projector:Projector", "projected tokens, both sides batch-normalised (ProjectorKD)"),
    "gram": ("kdcache.terms.gram:Gram", "cosines between an image's tokens, for any two widths (DINOv3)"),
    "token-similarity": (
        "kdcache.terms.token_similarity:TokenSimilarity",
        "softmax of the cosines between an image's tokens, for any two widths (LightlyTrain)",
    ),
    "unic": ("kdcache.terms.unic:Unic", "several teachers, well matched ones dropped at random (UNIC)"),
    "local": (
        "kdcache.terms.local:Local",
        "every block on its own, fed the teacher's tokens and the student's (Lillama)",
    ),
    "proteus": (
        "kdcache.terms.proteus:Proteus",
        "class token, all tokens and patches masked from the student (Proteus)",
    ),
    "leap": ("kdcache.terms.leap:Leap", "one teacher block after another, as the student comes to resemble it (LEAP)"),
}


def load_term(name: str) -> "type[Term]":
    """The class behind a term's name.

    Raises: UsageError naming all terms.
    """
    return load_named({each: where for each, (where, _) in TERMS.items()}, name, "term")
