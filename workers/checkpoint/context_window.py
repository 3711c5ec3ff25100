"""How many tokens a model takes, read from its configuration files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: the context window of a model without a limit of its own
UNBOUNDED = 1 << 20
#: config keys that hold the number of positions, in the order they are looked up
_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "n_ctx")
#: the same for the encoder and for the decoder of a model that has both
_ENCODER_KEYS = ("max_encoder_position_embeddings", *_KEYS)
_DECODER_KEYS = ("max_decoder_position_embeddings", "max_position_embeddings")
#: families whose positions start behind the padding id, so that many positions are never used. Whoever loads a model
#: asks it (`parquetry.workers.encoding.positions`); who only cuts texts to length has no model to ask.
OFFSET_POSITIONS = (
    *("roberta", "xlm-roberta", "camembert", "xmod", "xlm-roberta-xl", "roberta-prelayernorm", "mpnet"),
    *("data2vec-text", "esm", "ibert", "layoutlmv3", "lilt", "longformer", "luke", "markuplm"),
)


def positions(config: Mapping[str, Any]) -> int | None:
    """Positions of a model with this config.json, or of its encoder; None where it sets no bound."""
    text_config = config.get("text_config") or config
    count = _first(text_config, _ENCODER_KEYS if config.get("is_encoder_decoder") else _KEYS)
    count = max(count, _stretched(text_config)) if count else count
    if count and config.get("model_type") in OFFSET_POSITIONS:
        count -= int(text_config.get("pad_token_id") or 0) + 1
    return count


def _stretched(text_config: Mapping[str, Any]) -> int:
    """Positions that YaRN makes of fewer, 0 without it. Published configs name the original number in both places."""
    said = text_config.get("rope_parameters") or text_config.get("rope_scaling") or {}
    kind, factor = said.get("rope_type") or said.get("type"), said.get("factor")
    original = said.get("original_max_position_embeddings") or text_config.get("max_position_embeddings")
    return int(factor * original) if kind == "yarn" and factor and original else 0


def output_context_window(text_config: Mapping[str, Any]) -> int:
    """Tokens an encoder-decoder's decoder may hold; relative positions, as in T5, set no bound."""
    return _first(text_config, _DECODER_KEYS) or UNBOUNDED


def tokenizer_limit(tokenizer_config: Mapping[str, Any]) -> int | None:
    """model_max_length of tokenizer_config.json, None where it is missing or a placeholder."""
    limit = tokenizer_config.get("model_max_length")
    return int(limit) if isinstance(limit, int | float) and limit < UNBOUNDED else None


def _first(config: Mapping[str, Any], keys: Sequence[str]) -> int | None:
    return next((int(config[key]) for key in keys if config.get(key)), None)
