"""Counter-based randomness: a token's noise depends on the request, the position and the token, never on the batch."""

from __future__ import annotations

from hashlib import blake2b

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
#: 23 bits and the half added to them fill a float32 mantissa; one bit more would round up to 1.0, infinite noise
_BITS = 23


def request_key(seed: int, row: int, sample: int) -> tuple[int, int]:
    """Two 32-bit words that name one sample of one row under one seed."""
    digest = blake2b(f"{seed}:{row}:{sample}".encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


def mix(x: Tensor) -> Tensor:
    """Scramble 32-bit integers, held in int64, one to one: every input bit reaches every output bit.

    The multipliers lie below 2**31, so products stay inside int64 and every device gives the same integers. They come
    from the hash-prospector search for the least biased two-round hash.
    """
    x = ((x ^ (x >> 16)) * 0x21F0AAAD) & _MASK
    x = ((x ^ (x >> 15)) * 0x735A2D97) & _MASK
    return x ^ (x >> 15)


def uniform(keys: Tensor, positions: Tensor, vocab_size: int) -> Tensor:
    """(num_rows, vocab_size) float32 strictly between 0 and 1, from keys (num_rows, 2) and positions (num_rows,)."""
    low = mix(keys[:, 0] ^ mix(positions & _MASK))
    high = mix(keys[:, 1] ^ low)
    tokens = torch.arange(vocab_size, device=keys.device)
    bits = mix(mix(tokens[None] ^ low[:, None]) ^ high[:, None])
    return ((bits >> (32 - _BITS)).float() + 0.5) * 2.0**-_BITS


def gumbel_noise(keys: Tensor, positions: Tensor, vocab_size: int) -> Tensor:
    """Standard Gumbel noise (num_rows, vocab_size) float32: argmax(logits + noise) is a draw from softmax(logits).

    `positions` is where each row's new token will stand, counted from the start of its prompt.
    """
    return -torch.log(-torch.log(uniform(keys, positions, vocab_size)))
