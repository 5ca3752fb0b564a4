"""The two ways of reading, the first of which needs the C extension."""

import pytest

from kdcache.stream import gather

needs_extension = pytest.mark.skipif(
    gather._gather is None, reason="the C extension was not built: there was no compiler when kdcache was installed"
)
WAYS = [pytest.param("map", marks=needs_extension), "read"]
