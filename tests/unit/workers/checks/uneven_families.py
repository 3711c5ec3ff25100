"""Tiny random models of families whose padded rows are not what they are alone, and of some whose rows are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from tests.models import byte_tokenizer

_BASE = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 3,
}  # fmt: skip
_EXPERTS = {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2, "n_shared_experts": 1}
_SPARSE = {
    **_EXPERTS, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
    "index_topk": 16, "index_head_dim": 16, "index_n_heads": 2, "moe_intermediate_size": 16, "head_dim": 8,
    "num_key_value_heads": 4, "first_k_dense_replace": 1,
}  # fmt: skip
_COMPRESSED = {
    "num_hidden_layers": 4, "q_lora_rank": 16, "qk_rope_head_dim": 8, "head_dim": 16, "o_lora_rank": 16, "o_groups": 1,
    "index_topk": 16, "index_head_dim": 16, "index_n_heads": 2, "moe_intermediate_size": 16, "n_routed_experts": 4,
    "num_experts_per_tok": 2, "sliding_window": 16, "num_key_value_heads": 1,
}  # fmt: skip
_XLNET = {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64}

#: model type -> what its config needs beyond the base
CAUSAL: dict[str, dict[str, Any]] = {
    "llama": {},
    "bloom": {"n_layer": 2, "n_head": 4},
    "deepseek_v32": _SPARSE,
    "glm_moe_dsa": _SPARSE,
    "deepseek_v4": _COMPRESSED,
    "rwkv": {"context_length": 128, "attention_hidden_size": 32},
    "recurrent_gemma": {"lru_width": 32, "attention_window_size": 16, "head_dim": 8, "num_hidden_layers": 3},
    "xlnet": _XLNET,
    "roformer": {"is_decoder": True},
}
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {},
    "bart": {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
             "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
    "xlnet": _XLNET,
    "fnet": {},
    "convbert": {"embedding_size": 32, "conv_kernel_size": 3, "head_ratio": 2},
    "nystromformer": {},
    "yoso": {},
}  # fmt: skip


def write_causal(folder: Path, family: str) -> Path:
    """A generator in `folder`."""
    return _write(folder, family, CAUSAL[family], AutoModelForCausalLM, around=())


def write_classifier(folder: Path, family: str) -> Path:
    """A classifier of three labels in `folder`."""
    options = {**ENCODERS[family], "num_labels": 3}
    return _write(folder, family, options, AutoModelForSequenceClassification, around=("<s>", "</s>"))


def write_body(folder: Path, family: str) -> Path:
    """A model that gives a vector a token, in `folder`."""
    return _write(folder, family, ENCODERS[family], AutoModel, around=("<s>", "</s>"))


def _write(folder: Path, family: str, options: dict[str, Any], kind: Any, *, around: tuple[str, ...]) -> Path:
    tokenizer = byte_tokenizer(chat=False, around=around)
    torch.manual_seed(0)
    # XLNet refuses to be told a limit
    base = {key: value for key, value in _BASE.items() if (family, key) != ("xlnet", "max_position_embeddings")}
    config = AutoConfig.for_model(family, **{**base, "vocab_size": len(tokenizer), **options})
    model = kind.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # sharp enough that the likeliest token is never a matter of rounding
            if parameter.dim() > 1 and "time_" not in name:
                nn.init.normal_(parameter, std=0.15)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
