"""The hook under stock transformers classes that keeps each query inside its own row."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface

from parquetry.workers.encoding.attention.tiles import TileShape

IMPLEMENTATION = "parquetry_encoder"
#: tokens of the longest row up to which our kernel beats the general flash attention
LONGEST_TILED = 512
_HAS_TRITON = importlib.util.find_spec("triton") is not None


@dataclass(frozen=True, eq=False)
class Segments:
    """Where the rows of the batch that is being computed begin and end."""

    #: (num_rows + 1,) int32 on the device
    cu_seqlens: Tensor
    max_seqlen: int
    #: (count, length) of neighbouring rows that are equally long
    runs: list[tuple[int, int]]
    #: (num_tiles, 3) int32 and (1,) int32 on the device, see `tiles`
    table: Tensor
    num_tiles: Tensor
    tile: TileShape


class _Current:
    """The batch being computed. One engine drives one device from one thread, so there is one at a time."""

    segments: Segments | None = None
    #: hook calls since `counting` began
    num_calls = 0


@contextmanager
def within_rows(segments: Segments) -> Iterator[None]:
    """Make the hook keep queries inside the rows of `segments`."""
    previous, _Current.segments = _Current.segments, segments
    try:
        yield
    finally:
        _Current.segments = previous


def num_calls() -> int:
    """Hook calls so far in this process."""
    return _Current.num_calls


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, sliding_window: int, causal: bool) -> Tensor:
    """q (num_tokens, heads, dim), k and v (num_tokens, kv_heads, dim) of the current batch; returns the shape of q.

    A query sees keys at a distance below `sliding_window` (0: all), of earlier tokens only when `causal`.
    """
    segments = _Current.segments
    assert segments is not None, "the packed hook ran outside a batch"
    _Current.num_calls += 1
    if not q.is_cuda:
        return attend_runs(q, k, v, segments.runs, scale, sliding_window, causal)
    if q.dtype == torch.float32:
        return _attend_efficient(q, k, v, segments, scale, causal)
    if serves_tiles(segments.max_seqlen, q.shape[-1]):
        return _attend_tiles(q, k, v, segments, scale, sliding_window, causal)
    return _attend_flash(q, k, v, segments, scale, sliding_window, causal)


def serves_tiles(max_seqlen: int, head_dim: int) -> bool:
    """Whether our kernel is the faster one: rows are short and a head fits a tile."""
    return _HAS_TRITON and max_seqlen <= LONGEST_TILED and head_dim <= 128


def kernel_name(device: torch.device, dtype: torch.dtype) -> str:
    """What `attend` uses, for provenance."""
    if device.type != "cuda":
        return "sdpa, rows of equal length together"
    if dtype == torch.float32:
        return "memory-efficient varlen"
    return "triton tiles, flash varlen for long rows" if _HAS_TRITON else "flash varlen"


def attend_runs(
    q: Tensor, k: Tensor, v: Tensor, runs: list[tuple[int, int]], scale: float, sliding_window: int, causal: bool
) -> Tensor:
    """SDPA over each run of equally long rows: no padding, and few calls where rows are short."""
    outs, start = [], 0
    for count, length in runs:
        tokens = slice(start, start + count * length)
        queries, keys, values = (x[tokens].unflatten(0, (count, length)).transpose(1, 2) for x in (q, k, v))
        outs.append(_attend_rows(queries, keys, values, scale, sliding_window, causal).transpose(1, 2).flatten(0, 1))
        start = tokens.stop
    return torch.cat(outs)


def _attend_rows(q: Tensor, k: Tensor, v: Tensor, scale: float, sliding_window: int, causal: bool) -> Tensor:
    length = q.shape[2]
    banded = 0 < sliding_window < length
    mask = _band(length, sliding_window, causal, q.device) if banded else None
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal and not banded, scale=scale, enable_gqa=grouped
    )


def _band(length: int, sliding_window: int, causal: bool, device: torch.device) -> Tensor:
    """(length, length) bool."""
    at = torch.arange(length, device=device)
    distance = at[:, None] - at[None, :]
    return (distance < sliding_window) & (distance >= 0) if causal else distance.abs() < sliding_window


def _attend_tiles(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float, sliding_window: int, causal: bool
) -> Tensor:
    from parquetry.workers.encoding.attention.varlen_kernel import varlen_attention

    return varlen_attention(q, k, v, segments.table, segments.num_tiles, segments.tile, scale, sliding_window, causal)


def _attend_flash(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float, sliding_window: int, causal: bool
) -> Tensor:
    cu, longest = segments.cu_seqlens, segments.max_seqlen
    # a sliding window that no row outgrows is none; the kernel without one is faster
    left = sliding_window - 1 if 0 < sliding_window < longest else -1
    return torch.ops.aten._flash_attention_forward(
        q, k, v, cu, cu, longest, longest, 0.0, causal, False,
        scale=scale, window_size_left=left, window_size_right=0 if causal else left,
    )[0]  # fmt: skip


def _attend_efficient(q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float, causal: bool) -> Tensor:
    """float32, which flash attention does not take; sliding windows and query groups are refused at load."""
    cu, longest = segments.cu_seqlens, segments.max_seqlen
    out = torch.ops.aten._efficient_attention_forward(
        q[None], k[None], v[None], None, cu, cu, longest, longest, 0.0, int(causal), scale=scale
    )
    return out[0][0]


# opaque, so that a compiled layer neither traces into the kernels nor is compiled anew for every batch
@torch.library.custom_op("parquetry::encoder_attention", mutates_args=())
def encoder_attention(q: Tensor, k: Tensor, v: Tensor, scale: float, sliding_window: int, causal: bool) -> Tensor:
    """`attend` as an operator."""
    return attend(q, k, v, scale, sliding_window, causal).contiguous()


@encoder_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, scale: float, sliding_window: int, causal: bool) -> Tensor:
    return q.new_empty(q.shape)


def encoder_hook(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """query (1, heads, num_tokens, dim), key, value (1, kv_heads, ...); returns (1, num_tokens, heads, dim)."""
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    scale = float(scaling) if scaling is not None else q.shape[-1] ** -0.5
    causal = bool(getattr(module, "is_causal", False) if is_causal is None else is_causal)
    call = encoder_attention if torch.compiler.is_compiling() else attend
    return call(q, k, v, scale, int(sliding_window or 0), causal)[None], None


AttentionInterface.register(IMPLEMENTATION, encoder_hook)
