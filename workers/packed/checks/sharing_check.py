"""Before a backend may read shared prefixes once: the same decodes with and without, on random keys and values."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch

from parquetry.workers.packed.attention.backend import AttentionBackend
from parquetry.workers.packed.attention.call import AttentionCall, AttentionSpec, AttentionStep, SharedKeys
from parquetry.workers.packed.attention.kv_cache import LayerShape
from parquetry.workers.packed.scheduling.sharing import MIN_ROWS

log = logging.getLogger(__name__)
#: largest relative error, by dtype: the order of the sums alone differs
TOLERANCE = {torch.float32: 2e-3, torch.float16: 3e-2, torch.bfloat16: 8e-2}
#: blocks that all rows share, and blocks each row has to itself
NUM_SHARED, NUM_OWN = 3, 2


def can_share(backend: AttentionBackend, layer: LayerShape, block_size: int, device: torch.device) -> bool:
    """Whether `backend` can, and gives what it gives without. A wrong result is a warning: nothing is shared then."""
    if not backend.shares_prefixes or block_size % 16:
        return False
    step = decode_step(block_size, device)
    generator = torch.Generator(device=device).manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=layer.dtype)

    blocks = NUM_SHARED + NUM_OWN * MIN_ROWS
    k_cache = random(blocks, layer.num_kv_heads, block_size, layer.key_dim)
    v_cache = random(blocks, layer.num_kv_heads, block_size, layer.value_dim)
    q = random(MIN_ROWS, layer.num_heads, layer.key_dim)
    k, v = (random(MIN_ROWS, layer.num_kv_heads, dim) for dim in (layer.key_dim, layer.value_dim))
    call = AttentionCall(q, k, v, k_cache, v_cache, step, AttentionSpec(layer.key_dim**-0.5))
    want = backend.decode(replace(call, step=replace(step, shared=None)))
    got = backend.decode(call)
    error = relative_error(got, want)
    if error > TOLERANCE[layer.dtype]:
        log.warning(
            "prefixes are read once for every row: sharing them gives other results, relative error %.3g", error
        )
        return False
    return True


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    """|got - want| / |want|, and infinity when it is no number."""
    error = float((got.float() - want.float()).norm() / want.float().norm().clamp_min(1e-9))
    return error if error == error else float("inf")


def decode_step(block_size: int, device: torch.device) -> AttentionStep:
    """MIN_ROWS decodes of different lengths behind NUM_SHARED common blocks."""
    own = torch.arange(NUM_OWN * MIN_ROWS, dtype=torch.int32).view(MIN_ROWS, NUM_OWN) + NUM_SHARED
    common = torch.arange(NUM_SHARED, dtype=torch.int32).expand(MIN_ROWS, NUM_SHARED)
    tables = torch.cat([common, own], 1).to(device)
    # row 0 has nothing of its own but the new token
    lens = NUM_SHARED * block_size + 1 + torch.arange(MIN_ROWS, device=device, dtype=torch.int32)
    lanes = torch.arange(MIN_ROWS, device=device, dtype=torch.int32)
    last = lens.long() - 1
    slots = tables[lanes.long(), last // block_size].long() * block_size + last % block_size
    shared = torch.full_like(lens, NUM_SHARED * block_size)
    tile = torch.zeros(1, device=device, dtype=torch.int32)
    keys = SharedKeys(shared, tile, tile + MIN_ROWS)
    return AttentionStep(slots, tables, block_size, MIN_ROWS, lanes, lens, shared=keys)
