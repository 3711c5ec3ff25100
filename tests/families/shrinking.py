"""The default config of a family with every size small enough for random weights that are made in a moment."""

from __future__ import annotations

import re
from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tests.families.exceptions import CAUSAL_EXCEPTIONS, EXCEPTIONS

VOCAB_SIZE = 400
#: what names of config keys mean, the first that matches; None leaves the default
SIZES: tuple[tuple[str, int | None], ...] = (
    (r"pad_token_id", 0),
    (r"bos_token_id|cls_token_id", 1),
    (r"eos_token_id|sep_token_id", 2),
    (r"decoder_start_token_id", 2),
    (r".*token_(id|index)|.*_pad_id", None),
    (r"(decoder_)?vocab_size(_per_layer_input)?|unpadded_vocab_size", VOCAB_SIZE),
    (r".*vocab_size.*", None),
    (r"(original_)?max_position_embeddings|n_positions|n_ctx|max_seq(uence)?_len(gth)?|seq_length|context_length", 512),
    (r"(attention_)?chunk_size|(attention_|keep_|sliding_)?window(_size)?|sliding_window|local_attention", 16),
    (r"attention_window_size", 16),
    (r"max_(source|target)_positions", 512),
    (r"num_kv_shared_layers|num_nextn_predict_layers", 0),
    (r"(n_group|num_expert_group|topk_group|n_shared_experts|num_shared_experts|zero_expert_num)", 1),
    (r"(first_k_dense_replace|num_dense_layers|moe_layer_start_index)", 1),
    (r"num_experts_per_tok(en)?|moe_(topk|k)|top_k_experts", 2),
    (r"(moe_)?num_(local_)?experts|n_routed_experts", 4),
    (r"(num_|n_)?(encoder_|decoder_)(hidden_)?layers|num_(encoder|decoder)_layers", 2),
    (r"num_layers_per_stack", 1),
    (r"n_layers?|num_layers|num_blocks", 3),
    (r"num_hidden_layers", 4),
    (r"max_window_layers", 1),
    (r"(global_|swa_)?num_key_value_heads|(swa_|num_global_)(num_)?key_value_heads|num_kv_heads|num_query_groups", 2),
    (r"linear_num_key_heads|index_n_heads|n_mamba_heads", 2),
    (r"mamba_(n|num)_heads", 8),
    (r".*(num|n|attention)_(attention_|value_)?heads|n_head|num_(encoder|decoder)_attention_heads", 4),
    (r"qk_rope_head_dim|qk_nope_head_dim|rotary_dim", 8),
    (r"([a-z]+_)*head_dim|d_kv|qk_head_dim|kv_channels|mamba_d_head|mamba_headdim|attention_head_size|d_head", 16),
    (r"dim_head", 16),
    (r"q_lora_rank|kv_lora_rank", 32),
    (r"o_lora_rank|index_topk|gated_norm_rank|adapter_rank|hidden_size_per_layer_input", 16),
    (r"o_groups|mamba_n_groups", 1),
    (r"laurel_rank|hc_lowrank", 8),
    (r"(mamba_)?d_state|(ssm_)?state_size|mamba_d_state|mamba_chunk_size", 8),
    (r"mamba_dt_rank|time_step_rank", 4),
    (r"mamba_d_conv", 4),
    (r"moe_intermediate_size|(moe_)?shared_experts?_intermediate_size|moe_shared_expert_intermediate_size", 32),
    (r"expert_ffn_hidden_size|shared_intermediate_size", 32),
    (r".*intermediate_size(_mlp)?|n_inner|.*ffn_(dim|hidden_size)|d_ff|dff|d_inner|hidden_dim|dim_ff", 128),
    (r"feed_forward_size|mamba_d_ssm|block_ff_dim", 128),
    (r"index_block_size", 8),
    (r"relative_attention_num_buckets|relative_attention_max_distance|position_bias_num_buckets", 32),
    (r"hidden_size|d_model|n_embd|dim|emb_dim|embedding_(size|dim)|word_embed_proj_dim|pooler_hidden_size", 64),
    (r"(attention|router|input_embedding|output_embedding|prediction_head)_(hidden_)?size|lru_width", 64),
)  # fmt: skip
#: parts of a config that are configs themselves
_PARTS = ("text_config", "encoder", "decoder", "vision_config", "audio_config")


def small_config(kind: str, *, causal: bool = False, **more: Any) -> PreTrainedConfig:
    """The config of the family `kind`, of models that write text if `causal`, else of encoders.

    Raises whatever the config's class raises.
    """
    config_class = CONFIG_MAPPING[kind]
    known = EXCEPTIONS.get(kind, {}) | (CAUSAL_EXCEPTIONS.get(kind, {}) if causal else {})
    parts = {
        name: _sizes(part)
        for name, part in config_class.sub_configs.items()
        if name in _PARTS and part is not AutoConfig
    }
    return config_class(**{**_sizes(config_class), **parts, **known, **more})


def _sizes(config_class: type[PreTrainedConfig]) -> dict[str, Any]:
    """Small values for those keys of the default config that say how large the model is."""
    found: dict[str, Any] = {}
    defaults = _defaults(config_class)
    for name, value in defaults.items():
        size = _size(name)
        is_number = isinstance(value, int) and not isinstance(value, bool)
        if size is not None and (is_number or name.endswith("_token_id") or name in ("sliding_window", "vocab_size")):
            found[name] = size
    if "qk_rope_head_dim" in found:
        # heads whose keys are made of a compressed vector are never grouped, and rotate their own part
        found |= {name: size for name, size in (("head_dim", 8), ("num_key_value_heads", 4)) if name in defaults}
    return found


def _defaults(config_class: type[PreTrainedConfig]) -> dict[str, Any]:
    try:
        config = config_class()
    # some configs do not agree with themselves
    except Exception:  # noqa: BLE001
        return {name: 64 for name, _ in _plain_names()}
    names = config_class.attribute_map
    return {
        **config.to_dict(),
        **{names.get(name, name): vars(config).get(name) for name in vars(config) if name[0] != "_"},
    }


def _plain_names() -> list[tuple[str, int]]:
    """The patterns that are names."""
    return [(pattern, size) for pattern, size in SIZES if size is not None and pattern.isidentifier()]


def _size(name: str) -> int | None:
    return next((size for pattern, size in SIZES if re.fullmatch(pattern, name)), None)
