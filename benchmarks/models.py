"""The shapes the generation benchmark runs, with random weights: nothing is downloaded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from four_bit_model import make_four_bit
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    GptOssConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3Config,
    Qwen3MoeConfig,
)

from parquetry.workers.loading.model import quantize_late
from parquetry.workers.loading.quantization.quantization import RECIPES

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
    # the same, for prompts of tens of thousands of tokens
    "llama-8b-32k": (
        LlamaConfig,
        "LlamaForCausalLM",
        {
            "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 32768,
            "rope_theta": 500000.0,
        },
    ),
    # half of the layers of Qwen3-30B-A3B, so that weights and cache fit on 80 GB
    "qwen3-moe": (
        Qwen3MoeConfig,
        "Qwen3MoeForCausalLM",
        {
            "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 24,
            "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128,
            "num_experts_per_tok": 8, "moe_intermediate_size": 768, "norm_topk_prob": True,
            "max_position_embeddings": 4096,
        },
    ),
    "gpt-oss": (
        GptOssConfig,
        "GptOssForCausalLM",
        {
            "vocab_size": 201088, "hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 24,
            "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "num_local_experts": 32,
            "num_experts_per_tok": 4, "sliding_window": 128, "max_position_embeddings": 131072,
            "rope_parameters": {
                "rope_type": "yarn", "rope_theta": 150000.0, "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
                "truncate": False, "original_max_position_embeddings": 4096,
            },
        },
    ),
    # three layers of DeepSeek-V3, the first of them dense
    "deepseek": (
        DeepseekV3Config,
        "DeepseekV3ForCausalLM",
        {
            "vocab_size": 129280, "num_hidden_layers": 3, "first_k_dense_replace": 1, "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
    ),
    "tiny-moe": (
        Qwen3MoeConfig,
        "Qwen3MoeForCausalLM",
        {
            "vocab_size": 32000, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "num_experts": 8,
            "num_experts_per_tok": 2, "moe_intermediate_size": 32, "max_position_embeddings": 4096,
        },
    ),
    "tiny": (
        LlamaConfig,
        "LlamaForCausalLM",
        {
            "vocab_size": 32000, "hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 2,
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


def make_model(name: str, attention: str | None = None, quantization: str = "none") -> PreTrainedModel:
    """A model with random weights on the CUDA device, or on the CPU when there is none; bfloat16, then quantized."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = make_config(name)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation=attention)
    if quantization == "int4":
        make_four_bit(model)
    elif quantization != "none":
        quantize_late(model, RECIPES[quantization].build("bfloat16", 0.0))
    return model.eval()


def has_latents(config: PretrainedConfig) -> bool:
    """Whether keys and values are made of one latent vector a token (DeepSeek's MLA)."""
    return getattr(config, "kv_lora_rank", None) is not None


def head_dim(config: PretrainedConfig) -> int:
    """Numbers of one key."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def layer_kv_bytes(config: PretrainedConfig) -> int:
    """Bytes of keys and values one token leaves behind in one layer, in bfloat16; of its latent where there is one."""
    if has_latents(config):
        return 2 * (config.kv_lora_rank + config.qk_rope_head_dim)
    return 2 * 2 * config.num_key_value_heads * head_dim(config)


def kv_bytes_read(config: PretrainedConfig, num_keys: np.ndarray) -> float:
    """Bytes of keys and values that one token reads for each of num_keys (num_rows,); a window ends the reading."""
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    num_windows = kinds.count("sliding_attention")
    read = (len(kinds) - num_windows) * num_keys.sum()
    if num_windows:
        read = read + num_windows * np.minimum(num_keys, config.sliding_window).sum()
    return float(read) * layer_kv_bytes(config)


def prompt_attention_operations(config: PretrainedConfig, spans: np.ndarray) -> float:
    """Floating-point operations of attention for tokens [start, stop) of prompts, (num_spans, 2); a window ends it."""
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    num_windows = kinds.count("sliding_attention")
    pairs = (len(kinds) - num_windows) * num_pairs(spans, None)
    if num_windows:
        pairs += num_windows * num_pairs(spans, config.sliding_window)
    # two products, of two operations each
    return 4.0 * config.num_attention_heads * head_dim(config) * pairs


def num_pairs(spans: np.ndarray, window: int | None) -> float:
    """Pairs of a query and a key that it sees."""
    ends = spans.astype(float)
    below = ends * ends / 2
    if window is not None:
        below = np.where(ends > window, window * ends - window * window / 2, below)
    return float((below[:, 1] - below[:, 0]).sum())


@dataclass(frozen=True)
class Experts:
    """The routed experts of one layer."""

    number: int
    top_k: int
    #: weights of one
    size: int
    num_layers: int

    @classmethod
    def of(cls, config: PretrainedConfig) -> Experts:
        """No layers in a dense model."""
        names = ("n_routed_experts", "num_local_experts", "num_experts")
        number = next((n for n in (getattr(config, name, None) for name in names) if n), 0)
        if not number:
            return cls(1, 0, 0, 0)
        width = getattr(config, "moe_intermediate_size", None) or config.intermediate_size
        num_layers = config.num_hidden_layers - getattr(config, "first_k_dense_replace", 0)
        return cls(number, config.num_experts_per_tok, 3 * config.hidden_size * width, num_layers)

    def num_touched(self, num_tokens: int) -> float:
        """Experts of a layer that some of the tokens are sent to, each token choosing evenly and for itself."""
        return self.number * (1 - (1 - self.top_k / self.number) ** num_tokens)


def num_parameters(config: PretrainedConfig) -> int:
    """Parameters that take part in the matrix products of a token that is followed by a new one."""
    return num_layer_parameters(config) + config.vocab_size * config.hidden_size


def num_layer_parameters(config: PretrainedConfig) -> int:
    """Parameters that take part in the matrix products of every token: of all experts, those that one token chooses."""
    experts = Experts.of(config)
    return num_shared_parameters(config, experts) + experts.num_layers * experts.top_k * experts.size


def num_shared_parameters(config: PretrainedConfig, experts: Experts) -> int:
    """Parameters of the layers that every token meets: all but routed experts."""
    mlp = 3 * config.hidden_size * config.intermediate_size
    shared = getattr(config, "n_shared_experts", 0) * experts.size + config.hidden_size * experts.number
    num_dense = config.num_hidden_layers - experts.num_layers
    per_layer = attention_parameters(config) * config.num_hidden_layers
    return per_layer + num_dense * mlp + experts.num_layers * shared


def attention_parameters(config: PretrainedConfig) -> int:
    """Parameters of the products around one layer's attention."""
    hidden, heads = config.hidden_size, config.num_attention_heads
    if not has_latents(config):
        return hidden * (2 * heads + 2 * config.num_key_value_heads) * head_dim(config)
    query = config.q_lora_rank * (hidden + heads * (config.qk_nope_head_dim + config.qk_rope_head_dim))
    latent = hidden * (config.kv_lora_rank + config.qk_rope_head_dim)
    keys = config.kv_lora_rank * heads * (config.qk_nope_head_dim + config.v_head_dim)
    return query + latent + keys + heads * config.v_head_dim * hidden


def weight_bytes_read(config: PretrainedConfig, num_tokens: int) -> float:
    """Bytes of weights that a step of so many tokens reads at least: of the experts those that any token chose."""
    experts = Experts.of(config)
    touched = experts.num_layers * experts.num_touched(num_tokens) * experts.size
    return 2 * (num_shared_parameters(config, experts) + config.vocab_size * config.hidden_size + touched)
