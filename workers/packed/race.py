"""Counter-based randomness: a token's noise depends on the request, the position and the token, never on the batch."""

from __future__ import annotations

from hashlib import blake2b

import torch
from torch import Tensor

MASK = 0xFFFFFFFF


def request_key(seed: int, row: int, sample: int) -> tuple[int, int]:
    """Two 32-bit words that name one sample of one row under one seed."""
    digest = blake2b(f"{seed}:{row}:{sample}".encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


def mix(x: Tensor) -> Tensor:
    """A bijection on 32-bit integers (in int64) in which every input bit reaches every output bit.

    Both multipliers lie below 2**31, so the products stay inside int64. Constants: the hash-prospector search.
    """
    x = ((x ^ (x >> 16)) * 0x21F0AAAD) & MASK
    x = ((x ^ (x >> 15)) * 0x735A2D97) & MASK
    return x ^ (x >> 15)


def gumbel_noise(keys: Tensor, positions: Tensor, vocab_size: int) -> Tensor:
    """Standard Gumbel noise (num_rows, vocab_size) float32 from keys (num_rows, 2) and positions (num_rows,), int64.

    argmax(logits + noise) is a draw from softmax(logits): the exponential race, in logarithms.
    """
    low = mix(keys[:, 0] ^ mix(positions & MASK))
    high = mix(keys[:, 1] ^ low)
    tokens = torch.arange(vocab_size, device=keys.device)
    bits = mix(mix(tokens[None] ^ low[:, None]) ^ high[:, None])
    # 24 bits, the middle of each of 2**24 cells: never 0, never 1.
    uniform = ((bits >> 8).float() + 0.5) * 2.0**-24
    return -torch.log(-torch.log(uniform))
