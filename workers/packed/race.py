"""Counter-based randomness: a token's noise depends on the request, the position and the token, never on the batch."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

from workers.packed.threshold import keep_min_p, keep_top_k, keep_top_p

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


@dataclass(frozen=True)
class Draw:
    """Parameters of one draw per row; every tensor is (num_rows,), but keys are (num_rows, 2)."""

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    keys: Tensor
    #: position that the new token will have
    positions: Tensor
    #: whether any row has a top_k, top_p or min_p
    is_filtered: bool


def race_in_torch(scores: Tensor, draw: Draw) -> Tensor:
    """Tokens (num_rows,) from scores (num_rows, vocab): a draw where the temperature is positive, else the best."""
    is_random = draw.temperature > 0
    scaled = scores / torch.where(is_random, draw.temperature, 1.0)[:, None]
    if draw.is_filtered:
        scaled = keep_min_p(keep_top_p(keep_top_k(scaled, draw.top_k), draw.top_p), draw.min_p)
    noise = gumbel_noise(draw.keys, draw.positions, scores.shape[-1])
    return torch.where(is_random[:, None], scaled + noise, scores).argmax(-1)


def race_on_gpu(scores: Tensor, draw: Draw) -> Tensor:
    """The same in two kernels that make nothing as large as the scores."""
    from workers.packed.race_kernels import find_cuts, race

    cuts = None
    if draw.is_filtered:
        cuts = find_cuts(scores, draw.temperature, draw.top_k, draw.top_p, draw.min_p)
    return race(scores, draw.temperature, cuts, draw.keys, draw.positions)
