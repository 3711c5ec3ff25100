"""Sizes of a language model that decide its speed and its memory, from config.json and the headers of its weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from parquetry.workers.checkpoint.tensor_headers import TensorHeader
from parquetry.workers.loading.needs import LoadingNeeds
from parquetry.workers.loading.quantization.footprint import DTYPE_BYTES, loaded_bytes, num_weights

#: keys that configs of different ages have for one thing
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv")
_WIDTH = ("hidden_size", "n_embd", "d_model", "dim")
_INNER = ("intermediate_size", "n_inner", "ffn_dim", "hidden_dim")
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
_CHOSEN = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "experts_per_token")
#: tables of which a token reads one row, and what makes logits of the last vector
_TABLES = ("embed_tokens", "word_embeddings", "wte", "wpe", "position_embeddings", "token_type_embeddings")
_HEAD = ("lm_head", "embed_out", "output_projection")
_ROUTED = (".experts.", "experts.gate_up_proj", "experts.down_proj")


@dataclass(frozen=True)
class Weights:
    """Some of the weights: how many numbers, and bytes on the card."""

    numbers: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """One model under one job's options. Nothing here imports torch."""

    num_layers: int
    #: of all heads together
    attention_width: int
    hidden_size: int
    inner_size: int
    vocab_size: int
    dtype_bytes: int
    #: bytes that all layers keep of one token
    kv_bytes_per_token: int
    #: of all weights that every token meets, of those that make logits, and of routed experts
    dense: Weights
    head: Weights
    experts: Weights
    #: of a layer, and how many of them a token chooses; 1 of 1 where there are none
    num_experts: int = 1
    num_chosen: int = 1

    @classmethod
    def of(cls, needs: LoadingNeeds) -> ModelShape | None:
        """None where the config does not tell its layers and heads, as that of a model without attention."""
        config = needs.checkpoint.text_config
        layers, heads, width = _first(config, _LAYERS), _first(config, _HEADS), _first(config, _WIDTH)
        if not (layers and heads and width) or not needs.headers:
            return None
        head_dim = config.get("head_dim") or width // heads
        dtype = needs.dtype("cuda")
        return cls(
            num_layers=layers,
            attention_width=heads * head_dim,
            hidden_size=width,
            inner_size=_first(config, _INNER) or 4 * width,
            vocab_size=int(config.get("vocab_size") or 0),
            dtype_bytes=DTYPE_BYTES[dtype],
            kv_bytes_per_token=_kv_bytes(needs, layers, heads, head_dim),
            num_experts=_first(config, _EXPERTS) or 1,
            num_chosen=_first(config, _CHOSEN) or 1,
            **_weights(needs, dtype),
        )

    @property
    def active_numbers(self) -> float:
        """Weights that one token is multiplied with, logits aside."""
        return self.dense.numbers + self.experts.numbers * self.num_chosen / self.num_experts

    def bytes_touched(self, tokens: float) -> float:
        """Bytes of weights that a step over so many tokens reads, if they choose their experts evenly."""
        missed = (1 - self.num_chosen / self.num_experts) ** tokens
        return self.dense.bytes + self.head.bytes + self.experts.bytes * (1 - missed)


def _first(config: dict[str, Any], keys: tuple[str, ...]) -> int | None:
    return next((int(config[key]) for key in keys if isinstance(config.get(key), int)), None)


def _kv_bytes(needs: LoadingNeeds, layers: int, heads: int, head_dim: int) -> int:
    """What the cache keeps of a token: keys and values, or the latents that stand for both."""
    config = needs.checkpoint.text_config
    kinds = config.get("layer_types")
    if isinstance(kinds, list):
        # layers of other kinds keep a state of one size, however long a row is
        layers = sum("attention" in str(kind) and "linear" not in str(kind) for kind in kinds) or layers
    itemsize = 1 if needs.model.kv_dtype == "fp8" else DTYPE_BYTES[needs.dtype("cuda")]
    if rank := config.get("kv_lora_rank"):
        return int(layers * (int(rank) + int(config.get("qk_rope_head_dim") or 0)) * itemsize)
    kv_heads = 1 if config.get("multi_query") else _first(config, _KV_HEADS) or heads
    return int(2 * layers * kv_heads * head_dim * itemsize)


def _weights(needs: LoadingNeeds, dtype: str) -> dict[str, Weights]:
    headers = needs.headers

    def of(is_meant: Callable[[str], bool]) -> Weights:
        chosen: dict[str, TensorHeader] = {name: header for name, header in headers.items() if is_meant(name)}
        is_own = needs.four_bit is not None
        size = loaded_bytes(chosen, dtype=dtype, quantization=needs.model.quantization, own_4_bit=is_own)
        return Weights(sum(num_weights(name, header) for name, header in chosen.items()), size)

    tables, head = of(lambda name: _has(name, _TABLES)), of(lambda name: _has(name, _HEAD))
    return {
        "dense": of(lambda name: not _has(name, (*_TABLES, *_HEAD, *_ROUTED))),
        # the table of tokens makes the logits too where there is no other
        "head": head if head.numbers else tables,
        "experts": of(lambda name: _has(name, _ROUTED)),
    }


def _has(name: str, parts: tuple[str, ...]) -> bool:
    return any(part in name for part in parts)
