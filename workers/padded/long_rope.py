"""Rotary positions that change with the longest row of a batch."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

KIND = "longrope"


def long_rope_reason(config: PreTrainedConfig, max_model_len: int) -> str | None:
    """Why rows of a model that takes `max_model_len` tokens may not stand beside longer ones, None when they may.

    transformers takes the factors for long rows for all rows of a batch as soon as one of them is long. Rows of equal
    length become long with the same token.
    """
    text = config.get_text_config()
    found: dict[str, Any] = getattr(text, "rope_parameters", None) or {}
    # one for all layers, or one for each type of layer
    for rope in (found, *(value for value in found.values() if isinstance(value, dict))):
        switch = rope.get("original_max_position_embeddings") or getattr(text, "original_max_position_embeddings", None)
        if rope.get("rope_type") == KIND and (switch or 0) < max_model_len:
            return f"its rotary positions ({KIND}) are those of the longest row beyond {switch} tokens"
    return None
