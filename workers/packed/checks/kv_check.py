"""Before keys and values are kept in float8: the attention of one layer with and without it, on random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from parquetry.workers.engine import WrongAnswers
from parquetry.workers.packed.attention.backend import AttentionBackend
from parquetry.workers.packed.attention.call import AttentionCall
from parquetry.workers.packed.attention.kv_cache import LayerShape
from parquetry.workers.packed.attention.sdpa import to_stored
from parquetry.workers.packed.checks.hopper_check import random_call
from parquetry.workers.packed.checks.sharing_check import relative_error

#: largest relative error: float8 keeps three digits of a number, in twos; measured 0.04
TOLERANCE = 0.12


def require_stored(
    backend: AttentionBackend, layers: Sequence[LayerShape], block_size: int, device: torch.device
) -> None:
    """Raise WrongAnswers where a backend reads its own cache wrong."""
    layer = layers[0]
    if layer.stored_dtype == layer.dtype:
        return
    call = random_call(layer, block_size, device)
    kept = [to_stored(cache, layer.stored_dtype) for cache in (call.k_cache, call.v_cache)]
    narrow = replace(call, k_cache=kept[0], v_cache=kept[1])
    errors = [relative_error(backend.prefill(narrow), backend.prefill(call))]
    errors.append(relative_error(backend.decode(as_decodes(narrow)), backend.decode(as_decodes(call))))
    if max(errors) > TOLERANCE:
        raise WrongAnswers(f"a cache in float8 gives other results, relative error {max(errors):.3g}")


def as_decodes(call: AttentionCall) -> AttentionCall:
    """The last token of every chunk, as a decode."""
    chunks, size = call.prefill, call.step.block_size
    lens = chunks.context_lens
    last = lens.long() - 1
    slots = call.step.tables[chunks.lanes.long(), last // size].long() * size + last % size
    step = replace(
        call.step, slot_mapping=slots, num_decodes=len(lens), decode_lanes=chunks.lanes, decode_lens=lens, prefill=None
    )
    rows = chunks.cu_seqlens[1:].long() - 1
    return replace(call, q=call.q[rows], k=call.k[rows], v=call.v[rows], step=step)
