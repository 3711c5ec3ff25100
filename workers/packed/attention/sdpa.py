"""Reference attention in plain torch: what runs on a CPU, and what the kernels are tested against."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from parquetry.workers.packed.attention.backend import AttentionBackend
from parquetry.workers.packed.attention.call import AttentionCall, AttentionSpec


def visible_keys(query_positions: Tensor, key_positions: Tensor, sliding_window: int) -> Tensor:
    """(num_queries, num_keys) bool: causal, and `sliding_window` keys at most, the query's own included (0: all)."""
    distance = query_positions[:, None] - key_positions[None, :]
    mask = distance >= 0
    return mask & (distance < sliding_window) if sliding_window else mask


def attend_masked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, spec: AttentionSpec) -> Tensor:
    """q (batch, heads, queries, dim), k and v (batch, kv_heads, keys, dim), mask broadcastable to the scores."""
    if not spec.softcap and spec.sinks is None:
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, scale=spec.scale, enable_gqa=q.shape[1] != k.shape[1]
        )
    groups = q.shape[1] // k.shape[1]
    scores = q @ k.repeat_interleave(groups, 1).transpose(-1, -2) * spec.scale
    if spec.softcap:
        scores = spec.softcap * torch.tanh(scores / spec.softcap)
    scores = scores.float().masked_fill(~mask, float("-inf"))
    if spec.sinks is not None:
        sinks = spec.sinks.float().view(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
        weights = torch.cat([scores, sinks], -1).softmax(-1)[..., :-1]
    else:
        weights = scores.softmax(-1)
    return weights.to(v.dtype) @ v.repeat_interleave(groups, 1)


def attend_segment(q: Tensor, k: Tensor, v: Tensor, spec: AttentionSpec) -> Tensor:
    """One sequence: the last q.shape[0] tokens against all k.shape[0]; (tokens, heads, dim) in and out."""
    num_keys = k.shape[0]
    keys = torch.arange(num_keys, device=q.device)
    mask = visible_keys(keys[num_keys - q.shape[0] :], keys, spec.sliding_window)
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    return attend_masked(q, k, v, mask, spec)[0].transpose(0, 1)


def gather_blocks(cache: Tensor, table: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """The tokens of `table` (..., blocks) in order: (..., kv_heads, blocks * block_size, head_dim)."""
    blocks = cache[table.long()].to(dtype or cache.dtype).movedim(-3, -4)
    return blocks.flatten(-3, -2)


def to_stored(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x` as a cache of `dtype` keeps it; what float8 cannot hold becomes its largest number."""
    if dtype.itemsize > 1:
        return x
    largest = torch.finfo(dtype).max
    return x.clamp(-largest, largest).to(dtype)


class SdpaBackend(AttentionBackend):
    """SDPA per prefill segment; decodes of similar lengths gathered together, to the longest context of them."""

    name = "sdpa"
    block_size = 32

    #: decodes gathered at once; sorted by length, so a group pads little
    group_size = 16

    def write(self, call: AttentionCall) -> None:
        size = call.k_cache.shape[2]
        block, offset = call.slot_mapping // size, call.slot_mapping % size
        for x, cache in ((call.k, call.k_cache), (call.v, call.v_cache)):
            cache[block, :, offset] = to_stored(x, cache.dtype)

    def decode(self, call: AttentionCall) -> Tensor:
        self.write(call)
        out = call.q.new_empty(*call.q.shape[:2], call.v_cache.shape[-1])
        order = torch.argsort(call.step.decode_lens)
        for rows in order.split(self.group_size):
            out[rows] = self._decode_group(call, rows)
        return out

    def _decode_group(self, call: AttentionCall, rows: Tensor) -> Tensor:
        step, spec = call.step, call.spec
        lens = step.decode_lens[rows].long()
        longest = int(lens.max())
        table = step.tables[step.decode_lanes[rows].long(), : -(-longest // step.block_size)]
        k, v = (gather_blocks(cache, table, call.q.dtype)[:, :, :longest] for cache in (call.k_cache, call.v_cache))
        mask = visible_keys(lens - 1, torch.arange(longest, device=rows.device), spec.sliding_window)
        return attend_masked(call.q[rows][:, :, None], k, v, mask[:, None, None], spec)[:, :, 0]

    def prefill(self, call: AttentionCall) -> Tensor:
        outs, start = [], 0
        for chunk, length in enumerate(call.prefill.query_lens):
            tokens = call.tokens(start, start + length)
            outs.append(attend_segment(tokens.q, *self._chunk_keys(tokens, chunk), call.spec))
            start += length
        return torch.cat(outs)

    def _chunk_keys(self, tokens: AttentionCall, chunk: int) -> tuple[Tensor, Tensor]:
        """Keys and values that a chunk of `tokens` attends to, its own included: (keys, kv_heads, dim)."""
        context = tokens.prefill.host_context_lens[chunk]
        if len(tokens.k) == context:
            return tokens.k, tokens.v
        step = tokens.step
        table = step.tables[tokens.prefill.lanes[chunk].long(), : -(-context // step.block_size)]
        caches, dtype = (tokens.k_cache, tokens.v_cache), tokens.q.dtype
        k, v = (gather_blocks(cache, table, dtype)[:, :context].transpose(0, 1) for cache in caches)
        return k, v
