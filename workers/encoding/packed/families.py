"""Which model families may be packed: tried against their own attention, one by one, and everything else refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig


@dataclass(frozen=True)
class Family:
    """What packing needs to know of a family beyond its attention."""

    #: a decoder, whose rows are pooled at their last token
    is_causal: bool = False


_ENCODER = Family()
_DECODER = Family(is_causal=True)

#: model_type -> family
FAMILIES: dict[str, Family] = {
    **dict.fromkeys(("bert", "distilbert", "electra", "albert", "ernie", "roc_bert", "bert-generation"), _ENCODER),
    **dict.fromkeys(("modernbert", "nomic_bert", "eurobert", "jina_embeddings_v3", "esm"), _ENCODER),
    **dict.fromkeys(("roberta", "xlm-roberta", "camembert", "data2vec-text", "xmod"), _ENCODER),
    **dict.fromkeys(("xlm-roberta-xl", "roberta-prelayernorm"), _ENCODER),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma", "phi3", "granite", "smollm3"), _DECODER),
    # EmbeddingGemma's layers look both ways, which their own modules tell the hook
    "gemma3_text": _DECODER,
}


def family_of(config: PreTrainedConfig) -> Family | None:
    """The family of a model, None when it was never shown to pack."""
    return FAMILIES.get(config.model_type)


def config_reason(config: PreTrainedConfig) -> str | None:
    """Why a model of this configuration cannot be packed, None when nothing speaks against it."""
    if family_of(config) is None:
        return f"model type {config.model_type!r} is not on the list of families that pack"
    for key, refused, why in _REFUSED_SETTINGS:
        if _value(config, key) in refused:
            return why
    return None


def head_dim_of(config: PreTrainedConfig) -> int:
    """Size of one attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _value(config: PreTrainedConfig, key: str) -> Any:
    return getattr(config, key, None)


#: settings under which a listed family mixes rows or reads what packing does not give
_REFUSED_SETTINGS = (
    ("is_encoder_decoder", (True,), "encoder-decoder models do not pack"),
    ("token_dropout", (True,), "its embeddings are scaled by the share of masked tokens of a row (token_dropout)"),
    (
        "position_embedding_type",
        ("relative_key", "relative_key_query"),
        "its relative positions are not part of the attention interface",
    ),
)
