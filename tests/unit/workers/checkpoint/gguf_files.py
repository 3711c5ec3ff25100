"""GGUF files of the tiny Llama, as llama.cpp's converter would write them."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

#: name in transformers -> name in GGUF
_LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write_gguf(file: Path, model: Path, *, kind: str = "F32") -> Path:
    """The model in a folder of `tests.models.write_causal_lm`, its matrices as F32, F16 or Q8_0."""
    config = json.loads((model / "config.json").read_text())
    writer = gguf.GGUFWriter(file, "llama")
    _add_config(writer, config)
    _add_tokenizer(writer, model)
    for name, tensor in load_file(model / "model.safetensors").items():
        _add_tensor(writer, _gguf_name(name), _permuted(name, tensor, config), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _add_config(writer: gguf.GGUFWriter, config: dict) -> None:
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_vocab_size(config["vocab_size"])


def _add_tokenizer(writer: gguf.GGUFWriter, model: Path) -> None:
    fields = json.loads((model / "tokenizer.json").read_text())
    special = {token["id"] for token in fields["added_tokens"]}
    tokens = sorted(fields["model"]["vocab"], key=fields["model"]["vocab"].get)
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([control if index in special else normal for index in range(len(tokens))])
    writer.add_token_merges([" ".join(pair) for pair in fields["model"]["merges"]])
    writer.add_pad_token_id(tokens.index("<pad>"))
    writer.add_bos_token_id(tokens.index("<s>"))
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_add_bos_token(False)
    writer.add_chat_template((model / "chat_template.jinja").read_text())


def _gguf_name(name: str) -> str:
    stem, _, end = name.rpartition(".")
    if stem in _TOP:
        return f"{_TOP[stem]}.{end}"
    _, _, number, part = stem.split(".", 3)
    return f"blk.{number}.{_LAYER[part]}.{end}"


def _permuted(name: str, tensor: np.ndarray, config: dict) -> np.ndarray:
    """llama.cpp pairs neighbouring numbers of a head where transformers pairs its halves."""
    heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
    key = next((key for part, key in heads.items() if part in name), None)
    if key is None:
        return tensor
    return tensor.reshape(config[key], 2, -1, tensor.shape[1]).swapaxes(1, 2).reshape(tensor.shape)


def _add_tensor(writer: gguf.GGUFWriter, name: str, tensor: np.ndarray, kind: str) -> None:
    if tensor.ndim == 1 or kind == "F32":
        writer.add_tensor(name, tensor.astype(np.float32))
        return
    packed = gguf.GGMLQuantizationType[kind]
    writer.add_tensor(name, gguf.quantize(tensor.astype(np.float32), packed), raw_dtype=packed)
