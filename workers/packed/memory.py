"""How many KV blocks fit."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from parquetry.workers.packed.attention.kv_cache import LayerShape
from parquetry.workers.packed.options import PackedOptions
from parquetry.workers.packed.runner import ModelRunner


def free_bytes(device: torch.device, fraction: float, limit: int | None = None) -> int:
    """Bytes the cache may take: on CUDA what `fraction` of the card leaves, on a CPU a quarter of what is free.

    The rest of the card is for captured graphs and for what other libraries allocate. With a `limit`, in bytes, on what
    this process may take, the same fraction of that counts, whatever others take of the card.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        taken = torch.cuda.memory_allocated(device)
        left = free + torch.cuda.memory_reserved(device) - taken - (1.0 - fraction) * total
        return int(left if limit is None else min(left, fraction * limit - taken))
    return int(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * fraction / 4)


def fit_blocks(available: int, bytes_per_block: int, max_useful: int) -> int:
    """Blocks for `available` bytes, never more than `max_useful`. Raises MemoryError when not even one fits."""
    count = min(available // bytes_per_block, max_useful)
    if count < 1:
        raise MemoryError(
            f"no room for a KV cache: {available / 2**20:.0f} MiB free, one block takes {bytes_per_block / 2**20:.2f} "
            "MiB; use a smaller model or a quantization, or raise model.max_memory where the job sets it"
        )
    return count


def fit_num_blocks(
    layers: Sequence[LayerShape], runner: ModelRunner, options: PackedOptions, max_model_len: int
) -> int:
    """The blocks the options ask for, else what is left beside the largest step."""
    if options.num_blocks is not None:
        return options.num_blocks
    device, block_size = runner.forward.device_lanes.device, runner.forward.device_lanes.block_size
    peak = activation_bytes(runner, options, max_model_len)
    # every rank has as many blocks as the one with the least room
    available = runner.forward.group.minimum(free_bytes(device, options.memory_fraction, options.memory_limit) - peak)
    per_block = block_size * sum(layer.bytes_per_token for layer in layers)
    # More than every lane at its longest is of no use; the prefix cache may have as much again.
    useful = 2 * options.num_lanes * -(-max_model_len // block_size)
    return fit_blocks(available, per_block, useful)


def activation_bytes(runner: ModelRunner, options: PackedOptions, max_model_len: int) -> int:
    """Peak memory of the largest step, measured by running it; 0 on a CPU."""
    device = runner.forward.device_lanes.device
    if device.type != "cuda":
        return 0
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    step = runner.builder.rehearsal(options.token_budget, options.num_lanes, max_model_len)
    runner.forward.rehearse(step)
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device) - before
    torch.cuda.empty_cache()
    return peak
