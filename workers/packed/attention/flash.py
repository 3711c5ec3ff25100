"""Flash attention over packed prompts, from the flash-attn package or from torch itself."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from parquetry.workers.packed.attention.call import AttentionCall, AttentionSpec

HALF = (torch.float16, torch.bfloat16)
#: head sizes both implementations are built for everywhere
HEAD_DIMS = (64, 128)


def has_package() -> bool:
    """Whether flash-attn can be imported."""
    return importlib.util.find_spec("flash_attn") is not None


def package_can_attend(call: AttentionCall) -> bool:
    """Half precision, equal head sizes of 64 or 128, no sinks."""
    key_dim, value_dim = call.q.shape[2], call.v.shape[2]
    return call.q.dtype in HALF and key_dim == value_dim and key_dim in HEAD_DIMS and call.spec.sinks is None


def torch_can_attend(call: AttentionCall) -> bool:
    """As the package, and no softcap either."""
    return package_can_attend(call) and not call.spec.softcap


def window_size(spec: AttentionSpec) -> tuple[int, int]:
    """Keys to the left and right of a query; flash attention does not count the query itself."""
    return (spec.sliding_window - 1 if spec.sliding_window else -1, 0)


def package_varlen(call: AttentionCall) -> Tensor:
    """flash_attn_varlen_func over whole prompts."""
    from flash_attn import flash_attn_varlen_func

    prompts, spec = call.prefill, call.spec
    return flash_attn_varlen_func(
        call.q, call.k, call.v, prompts.cu_seqlens, prompts.cu_seqlens, prompts.max_seqlen, prompts.max_seqlen,
        softmax_scale=spec.scale, causal=True, window_size=window_size(spec), softcap=spec.softcap,
    )  # fmt: skip


def torch_varlen(call: AttentionCall) -> Tensor:
    """The aten operator behind torch's varlen attention; it takes fewer key-value heads than query heads."""
    prompts, (left, right) = call.prefill, window_size(call.spec)
    return torch.ops.aten._flash_attention_forward(
        call.q, call.k, call.v, prompts.cu_seqlens, prompts.cu_seqlens, prompts.max_seqlen, prompts.max_seqlen,
        0.0, True, False, scale=call.spec.scale, window_size_left=left, window_size_right=right,
    )[0]  # fmt: skip
