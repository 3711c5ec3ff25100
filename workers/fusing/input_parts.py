"""Inputs of a product cut into parts, where there are too few outputs for a card; the last part to end adds them up.

It adds all of them in their order, so a row's answer does not depend on who was first, and no kernel of its own is
started for it.
"""

# Triton reads the annotations of a kernel's arguments itself
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_PARTS = 8

_locks: dict[torch.device, Tensor] = {}


@triton.jit
def finish(total, scale, at, kept, out_ptr, partial_ptr, locks_ptr, tile, part, size, parts: tl.constexpr):
    """Store a tile of sums times `scale` at offsets `at`, or leave the sums beside those of other parts.

    `size` is that of the whole output, `tile` the tile's number, `part` that of these inputs.
    """
    if parts > 1:
        tl.store(partial_ptr + part * size + at, total, mask=kept)
        # every thread has stored before one of them says so
        tl.debug_barrier()
        if tl.atomic_add(locks_ptr + tile, 1, sem="acq_rel") == parts - 1:
            total = tl.zeros_like(total)
            for other in range(parts):
                # another multiprocessor wrote it: past the cache of this one
                total += tl.load(partial_ptr + other * size + at, mask=kept, other=0.0, cache_modifier=".cg")
            tl.store(out_ptr + at, (total * scale).to(out_ptr.dtype.element_ty), mask=kept)
            tl.store(locks_ptr + tile, 0)
    else:
        tl.store(out_ptr + at, (total * scale).to(out_ptr.dtype.element_ty), mask=kept)


def locks_of(device: torch.device, number: int) -> Tensor:
    """Zeros, one a tile; each product leaves them as it found them. Products of a device run one after another."""
    if device not in _locks or len(_locks[device]) < number:
        _locks[device] = torch.zeros(max(number, 1 << 14), dtype=torch.int32, device=device)
    return _locks[device]


def choose_parts(num_tiles: int, num_steps: int, num_programs: int) -> int:
    """Into how many parts inputs of `num_steps` tiles are cut, for at most so many programs.

    A power of two, for each is a kernel of its own.
    """
    parts = 1
    while parts < MAX_PARTS and num_tiles * parts * 2 <= num_programs and num_steps >= 8 * parts:
        parts *= 2
    return parts


def room_for_parts(x: Tensor, parts: int, num_rows: int, num_outputs: int) -> Tensor:
    """Where parts leave their sums, (parts, num_rows, num_outputs)."""
    shape = (parts, num_rows, num_outputs) if parts > 1 else (1,)
    return x.new_empty(shape, dtype=torch.float32)
