"""The shapes the generation benchmark runs, with random weights: nothing is downloaded."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, PreTrainedModel, Qwen3Config

SHAPES: dict[str, tuple[type[PretrainedConfig], str, dict]] = {
    "qwen3-0.6b": (
        Qwen3Config,
        "Qwen3ForCausalLM",
        {
            "vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
            "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True,
            "max_position_embeddings": 4096,
        },
    ),
    "llama-8b": (
        LlamaConfig,
        "LlamaForCausalLM",
        {
            "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 4096,
            "rope_theta": 500000.0,
        },
    ),
    "tiny": (
        LlamaConfig,
        "LlamaForCausalLM",
        {
            "vocab_size": 32000, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096,
        },
    ),
}  # fmt: skip


def make_config(name: str) -> PretrainedConfig:
    """The configuration of one shape, as a checkpoint would hold it."""
    kind, architecture, sizes = SHAPES[name]
    config = kind(**sizes)
    config.architectures = [architecture]
    config.dtype = "bfloat16"
    return config


def make_model(name: str, attention: str | None = None) -> PreTrainedModel:
    """A bfloat16 model with random weights on the CUDA device, or on the CPU when there is none."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = make_config(name)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation=attention)
    return model.eval()


def kv_bytes_per_token(config: PretrainedConfig) -> int:
    """Bytes of keys and values one token leaves behind, in bfloat16."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim


def num_parameters(config: PretrainedConfig) -> int:
    """Parameters that take part in the matrix products of a token that is followed by a new one."""
    return num_layer_parameters(config) + config.vocab_size * config.hidden_size


def num_layer_parameters(config: PretrainedConfig) -> int:
    """Parameters that take part in the matrix products of every token."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = (2 * config.num_attention_heads + 2 * config.num_key_value_heads) * head_dim
    per_layer = config.hidden_size * (heads + 3 * config.intermediate_size)
    return config.num_hidden_layers * per_layer
