"""Reference attention in plain torch: what runs on a CPU, and what the kernels are tested against."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from parquetry.workers.packed.attention.hook import AttentionBackend, AttentionSpec, AttentionStep


def visible_keys(query_positions: Tensor, key_positions: Tensor, window: int) -> Tensor:
    """(num_queries, num_keys) bool: causal, and at most `window` keys back, the query's own included (0: all)."""
    distance = query_positions[:, None] - key_positions[None, :]
    mask = distance >= 0
    return mask & (distance < window) if window else mask


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
    mask = visible_keys(keys[num_keys - q.shape[0] :], keys, spec.window)
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    return attend_masked(q, k, v, mask, spec)[0].transpose(0, 1)


def gather_blocks(cache: Tensor, table: Tensor) -> Tensor:
    """The tokens of `table` (..., blocks) in order: (..., kv_heads, blocks * block_size, head_dim)."""
    blocks = cache[table.long()].movedim(-3, -4)
    return blocks.flatten(-3, -2)


class SdpaBackend(AttentionBackend):
    """SDPA per prefill segment; decodes gathered to the longest context of a group of similar lengths."""

    name = "sdpa"
    block_size = 32

    #: decodes gathered at once; sorted by length, so a group pads little
    group_size = 16

    def write(self, k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slot_mapping: Tensor) -> None:
        size = k_cache.shape[2]
        block, offset = slot_mapping // size, slot_mapping % size
        k_cache[block, :, offset] = k
        v_cache[block, :, offset] = v

    def decode(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        step: AttentionStep,
        spec: AttentionSpec,
    ) -> Tensor:
        self.write(k, v, k_cache, v_cache, step.slot_mapping[: step.num_decodes])
        out = q.new_empty(*q.shape[:2], v_cache.shape[-1])
        order = torch.argsort(step.decode_lens)
        for rows in order.split(self.group_size):
            out[rows] = self._decode_group(q[rows], rows, k_cache, v_cache, step, spec)
        return out

    def _decode_group(
        self, q: Tensor, rows: Tensor, k_cache: Tensor, v_cache: Tensor, step: AttentionStep, spec: AttentionSpec
    ) -> Tensor:
        lens = step.decode_lens[rows].long()
        longest = int(lens.max())
        table = step.tables[step.decode_lanes[rows].long(), : -(-longest // step.block_size)]
        k, v = (gather_blocks(cache, table)[:, :, :longest] for cache in (k_cache, v_cache))
        mask = visible_keys(lens - 1, torch.arange(longest, device=q.device), spec.window)
        return attend_masked(q[:, :, None], k, v, mask[:, None, None], spec)[:, :, 0]

    def prefill(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        step: AttentionStep,
        spec: AttentionSpec,
    ) -> Tensor:
        part = step.prefill
        assert part is not None
        outs, start = [], 0
        for index, (length, context) in enumerate(zip(part.query_lens, part.host_context_lens, strict=True)):
            rows = slice(start, start + length)
            if length == context:
                keys, values = k[rows], v[rows]
            else:
                table = step.tables[part.lanes[index].long(), : -(-context // step.block_size)]
                keys, values = (gather_blocks(c, table)[:, :context].transpose(0, 1) for c in (k_cache, v_cache))
            outs.append(attend_segment(q[rows], keys, values, spec))
            start += length
        return torch.cat(outs)
