"""Flash attention over packed prompts, from the flash-attn package or from torch itself."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from parquetry.workers.packed.attention.hook import AttentionSpec, PrefillTensors

HALF = (torch.float16, torch.bfloat16)
#: head sizes both implementations are built for everywhere
HEAD_DIMS = (64, 128)


def has_package() -> bool:
    """Whether flash-attn can be imported."""
    return importlib.util.find_spec("flash_attn") is not None


def package_can_attend(q: Tensor, v: Tensor, spec: AttentionSpec) -> bool:
    """Half precision, equal head sizes of 64 or 128, no sinks."""
    return q.dtype in HALF and q.shape[2] == v.shape[2] and q.shape[2] in HEAD_DIMS and spec.sinks is None


def torch_can_attend(q: Tensor, v: Tensor, spec: AttentionSpec) -> bool:
    """As the package, and no softcap either."""
    return package_can_attend(q, v, spec) and not spec.softcap


def window_size(spec: AttentionSpec) -> tuple[int, int]:
    """Keys to the left and right of a query; flash attention does not count the query itself."""
    return (spec.window - 1 if spec.window else -1, 0)


def package_varlen(q: Tensor, k: Tensor, v: Tensor, part: PrefillTensors, spec: AttentionSpec) -> Tensor:
    """flash_attn_varlen_func over whole prompts."""
    from flash_attn import flash_attn_varlen_func

    return flash_attn_varlen_func(
        q, k, v, part.cu_seqlens, part.cu_seqlens, part.max_seqlen, part.max_seqlen,
        softmax_scale=spec.scale, causal=True, window_size=window_size(spec), softcap=spec.softcap,
    )  # fmt: skip


def torch_varlen(q: Tensor, k: Tensor, v: Tensor, part: PrefillTensors, spec: AttentionSpec) -> Tensor:
    """The aten operator behind torch's varlen attention; it takes fewer key-value heads than query heads."""
    left, right = window_size(spec)
    return torch.ops.aten._flash_attention_forward(
        q, k, v, part.cu_seqlens, part.cu_seqlens, part.max_seqlen, part.max_seqlen, 0.0, True, False,
        scale=spec.scale, window_size_left=left, window_size_right=right,
    )[0]  # fmt: skip
