"""The ways of reading that this machine allows."""

import pytest

from kdcache.stream import files, syscalls

needs_extension = pytest.mark.skipif(
    files._gather is None, reason="the C extension was not built: there was no compiler when kdcache was installed"
)
needs_kernel_copy = pytest.mark.skipif(not syscalls.can_copy(), reason="process_vm_readv is forbidden or missing here")
WAYS = [pytest.param("map", marks=needs_extension), pytest.param("kernel", marks=needs_kernel_copy), "read"]
