"""The torch side of unpacking a GGUF file.

`python -m parquetry.workers.loading.conversion.gguf_conversion FILE FOLDER`
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def convert(file: Path, folder: Path) -> None:
    """Write config, tokenizer, chat template and safetensors to `folder`.

    Numbers are kept as the file has them where it has plain ones. Unpacked blocks become float16, which holds more of
    their digits than bfloat16, and the config still asks for bfloat16, in which every model runs.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    from parquetry.workers.loading.weight_check import require_own_weights

    logging.set_verbosity_error()
    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name, "local_files_only": True}
    stored = stored_dtype(file)
    options = {"dtype": getattr(torch, stored), "output_loading_info": True, **_dequantized()}
    model, report = AutoModelForCausalLM.from_pretrained(**source, **options)
    require_own_weights(model, report, name=file.name, task="generate")
    # what was packed in the file is not packed in the folder
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
    _drop_tokens_from(folder / "tokenizer.json", model.config.get_text_config().vocab_size)
    if stored == "float16":
        _compute_in(folder / "config.json", "bfloat16")


def stored_dtype(file: Path) -> str:
    """float32 when every matrix of the file is, bfloat16 when it has plain ones, else float16."""
    from gguf import GGMLQuantizationType as Kind
    from gguf import GGUFReader

    kinds = {tensor.tensor_type for tensor in GGUFReader(file).tensors if len(tensor.shape) > 1}
    if kinds <= {Kind.F32}:
        return "float32"
    return "bfloat16" if kinds <= {Kind.F32, Kind.BF16} else "float16"


def _compute_in(config: Path, dtype: str) -> None:
    """save_pretrained notes the dtype of the tensors, and loading takes it for the model's own."""
    fields = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps({**fields, "dtype": dtype}, indent=2), encoding="utf-8")


def _drop_tokens_from(tokenizer: Path, vocab_size: int) -> None:
    """transformers' tokenizer classes add special tokens of their own, which the file's model has no numbers for."""
    fields = json.loads(tokenizer.read_text(encoding="utf-8"))
    fields["added_tokens"] = [token for token in fields["added_tokens"] if token["id"] < vocab_size]
    tokenizer.write_text(json.dumps(fields, ensure_ascii=False), encoding="utf-8")


def _dequantized() -> dict[str, Any]:
    """Arguments that make transformers unpack the blocks; before GgufConfig existed it always did."""
    try:
        from transformers import GgufConfig
    except ImportError:
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
