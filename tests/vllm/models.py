"""Tiny models with heads wide enough for vLLM's kernels, which take 32 numbers a head at least."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from tests.models import ENTITY_LABELS, LABELS, _save, _word_tokenizer, _write_json, byte_tokenizer, write_modules

WINDOW = 512
_WIDTH = 64


def write_generator(folder: Path) -> Path:
    """A two-layer Llama of two heads of 32 numbers over a byte-level BPE tokenizer."""
    tokenizer = byte_tokenizer(chat=True)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in ("<s>", "<|im_end|>", "<pad>")}
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=_WIDTH,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=WINDOW,
        bos_token_id=ids["<s>"],
        eos_token_id=ids["<|im_end|>"],
        pad_token_id=ids["<pad>"],
        # sharp enough that the likeliest token is never a matter of rounding
        initializer_range=0.3,
    )
    return _save(folder, LlamaForCausalLM(config), tokenizer)


def write_adapter(base: Path, folder: Path, *, seed: int) -> Path:
    """A LoRA of rank 4 on the attention of `base` that changes what it writes."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    model = get_peft_model(LlamaForCausalLM.from_pretrained(base), LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.5)
    model.save_pretrained(folder)
    return folder


def write_classifier(folder: Path, *, labels: list[str] = LABELS) -> Path:
    torch.manual_seed(1)
    tokenizer = _word_tokenizer()
    config = _bert(len(tokenizer), labels)
    return _save(folder, BertForSequenceClassification(config), tokenizer)


def write_token_classifier(folder: Path) -> Path:
    torch.manual_seed(3)
    tokenizer = _word_tokenizer()
    tokenizer.model_max_length = 64
    return _save(folder, BertForTokenClassification(_bert(len(tokenizer), ENTITY_LABELS)), tokenizer)


def write_embedder(folder: Path, *, pooling: str = "mean") -> Path:
    torch.manual_seed(2)
    tokenizer = _word_tokenizer()
    _save(folder, BertModel(_bert(len(tokenizer), LABELS)), tokenizer)
    write_modules(folder, _WIDTH, pooling=pooling)
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": 32, "do_lower_case": False})
    return folder


def _bert(vocab_size: int, labels: list[str]) -> BertConfig:
    config = BertConfig(
        vocab_size=vocab_size,
        hidden_size=_WIDTH,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    config.update({"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}})
    return config
