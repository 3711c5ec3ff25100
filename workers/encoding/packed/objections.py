"""What speaks against packing a model, by its configuration; and its own attention, for as long as it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from parquetry.workers.encoding.packed.families import config_reason, head_dim_of


def unsupported_reason(model: PreTrainedModel) -> str | None:
    """Why the model cannot be packed, in words that fit a log line; None when it may be tried."""
    reason = config_reason(model.config)
    if reason is not None:
        return reason
    if not getattr(model, "_supports_attention_backend", True):
        return f"{type(model).__name__} does not go through the attention interface"
    return _device_reason(model)


def _device_reason(model: PreTrainedModel) -> str | None:
    config, parameter = model.config, next(model.parameters())
    if not parameter.is_cuda:
        return None
    head_dim = head_dim_of(config)
    if head_dim % 8 or head_dim > 256:
        return f"the varlen kernels take head sizes in steps of 8 up to 256, not {head_dim}"
    grouped = getattr(config, "num_key_value_heads", None) not in (None, config.num_attention_heads)
    if model.dtype == torch.float32 and (grouped or sliding_window_of(model)):
        return "float32 on a GPU packs neither sliding windows nor query groups; choose bfloat16 or float16"
    return None


@contextmanager
def stock_attention(model: PreTrainedModel) -> Iterator[None]:
    """Let the model compute attention as its class does, in between."""
    implementation = model.config._attn_implementation
    model.set_attn_implementation("sdpa" if getattr(model, "_supports_sdpa", False) else "eager")
    try:
        yield
    finally:
        model.set_attn_implementation(implementation)


def sliding_window_of(model: PreTrainedModel) -> int:
    """Tokens that a layer with a sliding window sees to each side; 0 when all layers see everything."""
    kinds = getattr(model.config, "layer_types", None) or []
    width = getattr(model.config, "sliding_window", None) or 0
    return int(width) if not kinds or "sliding_attention" in kinds else 0
