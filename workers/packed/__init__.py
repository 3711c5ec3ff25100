"""Packed generation: one sequence of tokens per step, no padding token, keys and values in paged blocks."""
