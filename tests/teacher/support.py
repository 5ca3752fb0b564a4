"""What several tests of the teacher pass need."""

from kdcache.cache.facts import ViewFacts
from kdcache.views import VIEW_FIELDS


def fingerprint_views(num_views: int) -> ViewFacts:
    """View facts of 16 pixel rrc-flip views."""
    return ViewFacts(
        recipe="rrc-flip", seed=0, num_views=num_views, size=16, interpolation="bicubic", fields=list(VIEW_FIELDS),
        params={}, mean=[0.5] * 3, std=[0.5] * 3, jpeg_quality=0,
    )  # fmt: skip
