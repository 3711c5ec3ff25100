"""A model folder that can be checked but not run: config, a word tokenizer, and safetensors without a tensor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers

CONTEXT_WINDOW = 128


def make_model(folder: Path, **config: Any) -> Path:
    """Write the folder and return it; `config` adds to config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    base = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "max_position_embeddings": CONTEXT_WINDOW}
    (folder / "config.json").write_text(json.dumps({**base, **config}))
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "b": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    header = b"{}"
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    return folder
