"""What families need beside small sizes: sizes that must fit together, and few layers of every kind that they have."""

from __future__ import annotations

from typing import Any

_MAMBA, _FULL, _LINEAR = "mamba", "full_attention", "linear_attention"
_BART = {"num_hidden_layers": 2}
_NESTED_MOE = {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2}
_SMALL_TEXT = {
    "vocab_size": 400,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}
_EMPTY_VISION = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}

EXCEPTIONS: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {"layer_types": [_LINEAR, _FULL] * 2, "num_key_value_heads": 4},
    "bamba": {"attn_layer_indices": [1, 3]},
    "bart": _BART,
    "cohere_compass_text": {"rope_parameters": {_FULL: {"rope_type": "default", "rope_theta": 10000.0}}},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
        "ffn_config": _NESTED_MOE,
        "n_heads": 4,
    },
    "deepseek_v2": {"topk_method": "greedy", "num_experts_per_tok": 2, "n_group": None, "topk_group": None},
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "dots3_note_text": {"num_key_value_heads": 4},
    "esmc": {"num_key_value_heads": 4},
    "falcon": {"new_decoder_architecture": True, "alibi": False},
    "gemma3": {"vision_config": _EMPTY_VISION},
    "gemma3n_text": {"intermediate_size": 128},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "num_layers": 4, "window_size": 16},
    "granitemoehybrid": {"layer_types": [_MAMBA, "attention"] * 2},
    "hrm_text": {"num_layers_per_stack": 1, "num_hidden_layers": 8},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16, "num_experts": 4, "moe_topk": 2},
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "use_mamba_kernels": False,
    },
    "kimi_linear": {"layer_types": [_LINEAR, _FULL] * 2},
    "layoutlmv3": {"coordinate_size": 8, "shape_size": 16, "visual_embed": False},
    "lfm2_moe": {"layer_types": ["conv", _FULL] * 2},
    "lilt": {"hidden_size": 96, "num_attention_heads": 4},
    "longformer": {"attention_window": 16},
    "luke": {"entity_vocab_size": 20, "entity_emb_size": 16},
    "mamba2": {"num_heads": 8, "head_dim": 16, "n_groups": 1},
    "mbart": _BART,
    "marian": _BART,
    "ministral": {"head_dim": 16},
    "modernvbert": {
        "vision_config": _EMPTY_VISION,
        "text_config": {"model_type": "modernbert", **_SMALL_TEXT, "pad_token_id": 0},
    },
    "nemotron": {"num_key_value_heads": 2, "head_dim": 16},
    "pegasus": _BART,
    "perceiver": {
        "num_latents": 8,
        "d_latents": 64,
        "num_self_attends_per_block": 2,
        "num_self_attention_heads": 4,
        "num_cross_attention_heads": 4,
    },
    "phimoe": {"num_experts_per_tok": 2},
    "plbart": _BART,
    "qwen2": {"use_sliding_window": True},
    "qwen2_moe": {"use_sliding_window": True},
    "qwen3": {"use_sliding_window": True},
    "qwen3_moe": {"use_sliding_window": True, "decoder_sparse_step": 1, "mlp_only_layers": []},
    "recurrent_gemma": {"num_key_value_heads": 1},
    "reformer": {
        "attn_layers": ["local", "lsh"],
        "num_hidden_layers": 2,
        "axial_pos_shape": [16, 32],
        "axial_pos_embds_dim": [32, 32],
        "attention_head_size": 16,
        "local_attn_chunk_length": 16,
        "lsh_attn_chunk_length": 16,
        "num_buckets": 2,
    },
    "roc_bert": {
        "pronunciation_embed_dim": 16,
        "pronunciation_vocab_size": 20,
        "shape_embed_dim": 16,
        "shape_vocab_size": 20,
        "enable_pronunciation": False,
        "enable_shape": False,
    },
    "xlnet": {"d_head": 16},
    "xlstm": {"num_heads": 4, "mlstm_round_up_to_multiple_of": 1, "qk_dim_factor": 1.0, "v_dim_factor": 1.0},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "use_mamba_kernels": False,
        "attention_hidden_size": 128,
        "attention_head_dim": 32,
        "num_key_value_heads": 4,
        "mamba_dt_rank": 4,
        "layers_block_type": [_MAMBA, "hybrid"] * 2,
    },
    "zamba2": {
        "attention_hidden_size": 128,
        "attention_head_dim": 32,
        "num_key_value_heads": 4,
        "n_mamba_heads": 8,
        "layers_block_type": [_MAMBA, "hybrid"] * 2,
        "layer_types": [_MAMBA, "hybrid"] * 2,
    },
    "zaya": {"num_experts_per_tok": 1},
}
#: families that are encoders until they are told to be decoders
_DECODERS = (
    "bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert",
    "rembert", "reformer", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm-roberta", "xlm-roberta-xl",
    "xmod",
)  # fmt: skip
CAUSAL_EXCEPTIONS: dict[str, dict[str, Any]] = {
    **{kind: {"is_decoder": True} for kind in _DECODERS},
    "big_bird": {"is_decoder": True, "attention_type": "original_full"},
    "xlm": {"causal": True},
}
