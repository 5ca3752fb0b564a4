"""Samples made up."""

from kdcache.cache.sample import Sample
from kdcache.views import VIEW_FIELDS


def sample_named(key: str) -> Sample:
    """A sample of two views."""
    return Sample(
        key=key, source_key=key, label=0, source_sha256="00" * 32, size=(8, 8), mode="L", orientation=1,
        views=((0,) * len(VIEW_FIELDS),) * 2, pixel_hashes=("00" * 16,) * 2,
    )  # fmt: skip
