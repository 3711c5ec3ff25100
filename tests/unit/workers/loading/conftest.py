"""Models wide enough for the blocks of 64 weights that 4-bit quantization makes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def wide_lm(causal_lm: Path, models_folder: Path) -> Path:
    """The tiny chat model with 64 numbers a token."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = models_folder / "wide-lm"
    shutil.copytree(causal_lm, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = AutoConfig.from_pretrained(causal_lm, hidden_size=64, head_dim=16, intermediate_size=128)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def wide_embedder(embedder: Path, models_folder: Path) -> Path:
    """The tiny embedder with 64 numbers a token."""
    import torch
    from transformers import AutoConfig, AutoModel

    folder = models_folder / "wide-embedder"
    shutil.copytree(embedder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = AutoConfig.from_pretrained(embedder, hidden_size=64, intermediate_size=128)
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    return folder
