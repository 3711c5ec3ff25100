"""Tensor parallelism: one engine over several devices, a process (a rank) for each."""
