"""Kernels in Triton over the blocks of the cache."""
