"""How many tokens keep every multiprocessor busy to the end of a matrix product.

A product is cut into tiles, and the card computes as many of them at a time as it has multiprocessors: a wave. Where
there are a few more tiles than whole waves, the last wave is nearly empty: on an H100 the products of the Llama-8B
shape ran at 717 TFLOP/s with 4,224 tokens and at 684 with 4,352 (benchmarks/matmul_waves.py).
"""

from __future__ import annotations

from math import gcd

import torch

from parquetry.workers.packed.attention.backend import AttentionBackend

#: tokens and outputs of one tile of the large bf16 products
TILE_TOKENS, TILE_OUTPUTS = 128, 256


def full_step(backend: AttentionBackend, device: torch.device, hidden_size: int) -> int | None:
    """Tokens of a step whose products are whole waves; None where prompts had better not be cut to reach it."""
    if device.type != "cuda" or not backend.cuts_prompts_freely:
        return None
    return tokens_of_whole_waves(torch.cuda.get_device_properties(device).multi_processor_count, hidden_size)


def tokens_of_whole_waves(num_multiprocessors: int, hidden_size: int) -> int:
    """The fewest tokens that make whole waves of a product with `hidden_size` outputs, and of all multiples of it."""
    columns = max(1, hidden_size // TILE_OUTPUTS)
    return TILE_TOKENS * num_multiprocessors // gcd(num_multiprocessors, columns)
