"""The read modes that this machine allows."""

import pytest

from kdcache.reading import files

needs_extension = pytest.mark.skipif(
    files._gather is None, reason="the C extension was not built: there was no compiler when kdcache was installed"
)
MODES = [pytest.param("map", marks=needs_extension), "read"]
