"""How many KV blocks fit."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from workers.packed.attention import AttentionBackend
from workers.packed.kv_cache import LayerShape
from workers.packed.options import PackedOptions


@dataclass(frozen=True)
class CachePlan:
    """The size of the KV cache."""

    num_blocks: int
    block_size: int


def free_bytes(device: torch.device, fraction: float) -> int:
    """Bytes the cache may take: on CUDA what `fraction` of the card leaves, on a CPU a quarter of what is free."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + held - (1.0 - fraction) * total)
    return int(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * fraction / 4)


def plan_num_blocks(available: int, bytes_per_block: int, max_useful: int) -> int:
    """Blocks for `available` bytes, never more than `max_useful`. Raises MemoryError when not even one fits."""
    count = min(available // bytes_per_block, max_useful)
    if count < 1:
        raise MemoryError(
            f"no room for a KV cache: {available / 2**20:.0f} MiB free, one block takes {bytes_per_block / 2**20:.2f} "
            "MiB; use a smaller model, a quantization or a higher memory_fraction"
        )
    return count


def plan_cache(
    model: nn.Module,
    layers: Sequence[LayerShape],
    backend: AttentionBackend,
    options: PackedOptions,
    max_model_len: int,
) -> CachePlan:
    """Block size and count: what the options say, else what the backend likes and the memory holds."""
    block_size = options.block_size or backend.block_size
    if options.num_blocks is not None:
        return CachePlan(options.num_blocks, block_size)
    per_block = block_size * sum(layer.bytes_per_token for layer in layers)
    # More than every lane at its longest is of no use; the prefix cache may have as much again.
    useful = 2 * options.num_lanes * -(-max_model_len // block_size)
    return CachePlan(plan_num_blocks(free_bytes(model.device, options.memory_fraction), per_block, useful), block_size)
