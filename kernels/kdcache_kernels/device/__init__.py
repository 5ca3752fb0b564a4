"""Triton kernels, one a file, each with its launch and its `Kernel`. Imported only when one is launched or compiled."""
