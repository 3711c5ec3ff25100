"""Small random models of every family that packs, sharp enough that attention to a wrong row shows."""

from __future__ import annotations

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)

from parquetry.workers.encoding.packed.families import FAMILIES

VOCAB = 100
_SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "vocab_size": VOCAB, "num_labels": 3, "max_position_embeddings": 80,
}  # fmt: skip
_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_OWN = {
    "distilbert": {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4},
    "modernbert": {"local_attention": 8, "num_hidden_layers": 4, "cls_token_id": 1, "sep_token_id": 2, **_IDS},
    "albert": {"embedding_size": 16},
    "electra": {"embedding_size": 16},
    "eurobert": {"num_key_value_heads": 2, "mask_token_id": 3, **_IDS},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "esm": {"position_embedding_type": "rotary", "token_dropout": False, "pad_token_id": 1, "mask_token_id": 3},
    "mistral": {"sliding_window": 8},
    "gemma3_text": {
        "sliding_window": 8,
        "head_dim": 8,
        "num_hidden_layers": 3,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    },
}


def tiny_model(name: str, *, seed: int = 0, per_token: bool = False, **extra: object) -> PreTrainedModel:
    """A classifier of texts, or of tokens, of the family, or the bare model where the family has none."""
    torch.manual_seed(seed)
    options = {} if name == "distilbert" else dict(_SMALL)
    if name == "distilbert":
        options = {key: _SMALL[key] for key in ("vocab_size", "num_labels", "max_position_embeddings")}
    if name in FAMILIES and FAMILIES[name].is_causal:
        options |= {"num_key_value_heads": 2, **_IDS}
    config = AutoConfig.for_model(name, **{**options, **_OWN.get(name, {}), **extra})
    try:
        kind = AutoModelForTokenClassification if per_token else AutoModelForSequenceClassification
        model = kind.from_config(config)
    except ValueError:
        model = AutoModel.from_config(config)
    return _sharpened(model.eval())


def _sharpened(model: PreTrainedModel) -> PreTrainedModel:
    """Random weights are so small that attention is nearly even; larger ones make it choose."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
    return model
