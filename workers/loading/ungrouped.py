"""sdpa for kernels that know no query groups: every key and value head is repeated for its queries.

transformers does so only where a batch has a mask, so those kernels would serve some batches of a job and not others.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

IMPLEMENTATION = "parquetry_sdpa_ungrouped"


def attend_ungrouped(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """query (batch, heads, queries, dim), key and value (batch, kv_heads, keys, dim); (batch, queries, heads, dim)."""
    queries_per_key = query.shape[1] // key.shape[1]
    if queries_per_key > 1:
        key, value = key.repeat_interleave(queries_per_key, 1), value.repeat_interleave(queries_per_key, 1)
    # stands for the module, which would tell of its query groups
    ungrouped = SimpleNamespace(is_causal=getattr(module, "is_causal", True))
    return sdpa_attention_forward(ungrouped, query, key, value, attention_mask, **options)


AttentionInterface.register(IMPLEMENTATION, attend_ungrouped)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
