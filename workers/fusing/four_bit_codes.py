"""Weights of 4 bits as kernels read them: blocks of 64 inputs, 8 words each.

Word t of a block holds in its bits 4i to 4i + 3, i from 0 to 3, the code of input 16i + 2t, and 16 bits further up that
of the input behind it: one shift of all words gives pairs of neighbouring inputs, which are two numbers of 16 bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: inputs are filled up to a multiple of this
BLOCK = 64
#: a block by input: half of a word's half, its byte's half, word, half of the word
_BY_INPUT = (-1, 2, 2, 8, 2)


def pack_codes(codes: Tensor) -> Tensor:
    """codes (num_outputs, num_inputs) uint8 below 16, num_inputs a multiple of 64.

    Returns (num_outputs, num_inputs / 8) int32.
    """
    by_input = codes.unflatten(1, _BY_INPUT)
    in_bytes = by_input[:, :, :, 0] | (by_input[:, :, :, 1] << 4)
    # bytes of a word from its lowest up: of the lower half, then of the upper
    return in_bytes.permute(0, 1, 3, 4, 2).flatten(3).contiguous().view(torch.int32).flatten(1)


def unpack_codes(packed: Tensor) -> Tensor:
    """packed as from `pack_codes`; returns its codes."""
    in_bytes = packed.contiguous().view(torch.uint8).unflatten(1, (-1, 8, 2, 2))
    return torch.stack((in_bytes & 15, in_bytes >> 4), -1).permute(0, 1, 4, 5, 2, 3).flatten(1)
