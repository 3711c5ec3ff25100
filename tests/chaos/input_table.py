"""The table and the model folder of a chaos job: texts whose echo can be told apart, and a tokenizer for them."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

#: words with an effect in the echo engine; their token ids are their positions in VOCABULARY
SPELLS = ("POISON", "RAISE", "KILL", "SEGV", "HANG", "OOM", "SLOW")
VOCABULARY = ("<pad>", "<s>", "</s>", "<unk>", *SPELLS, *"0123456789")


def write_table(path: Path, rows: int, spells: Mapping[int, str] | None = None) -> Path:
    """A Parquet file of `rows` rows; `spells` puts a word with an effect into some of them."""
    spells = spells or {}
    texts = [f"{spells[i]} {digits(i)}" if i in spells else digits(i) for i in range(rows)]
    expect = ["error" if spells.get(i) in ("POISON", "RAISE") else "echo" for i in range(rows)]
    ids = [i * 7 + 1 for i in range(rows)]
    table = pa.table({"id": pa.array(ids, pa.int64()), "text": texts, "expect": expect})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


def digits(number: int) -> str:
    """ "4 2" for 42: one token a digit."""
    return " ".join(str(number))


def write_model(folder: Path) -> Path:
    """A checkpoint folder that passes every check made before an engine loads it; one that is there stays as it is."""
    # workers may be reading it
    if (folder / "model.safetensors").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": len(VOCABULARY), **sizes}
    config |= {"num_key_value_heads": 1, "max_position_embeddings": 512, "eos_token_id": 2, "bos_token_id": 1}
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": 0, "torch_dtype": "float32"}))
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer()))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "bos_token": "<s>"}))
    (folder / "model.safetensors").write_bytes(_weights())
    return folder


def _tokenizer() -> dict[str, object]:
    vocabulary = {word: number for number, word in enumerate(VOCABULARY)}
    special = [
        {"id": i, "content": VOCABULARY[i], "special": True, "single_word": False, "lstrip": False, "rstrip": False}
        | {"normalized": False}
        for i in range(4)
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
    }


def _weights() -> bytes:
    header = {"embed": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"\0\0\0\0"
