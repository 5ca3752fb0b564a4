import kdcache_kernels

from kdcache import ops


def test_operations_come_from_the_kernel_package() -> None:
    for name in ops.__all__:
        assert getattr(ops, name) is getattr(kdcache_kernels, name)
