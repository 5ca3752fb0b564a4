"""Triton kernels, one a file, each with its launch. Imported only when one is launched or compiled."""
