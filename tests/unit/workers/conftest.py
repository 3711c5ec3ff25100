"""What an environment without an extra collects of these rooms, and models wide enough for blocks of 64 weights."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
#: tests of the room of loading whose modules load torch
LOADING = (
    *("adapters", "test_attention_choice.py", "test_loading_matrix.py", "test_own_weights.py", "test_precision.py"),
    *("quantization/test_four_bit_layouts.py", "quantization/test_four_bit_loading.py"),
)
#: rooms, and test files of the other rooms, whose modules load torch
TORCH = (
    *("checks", "hosting", "padded", "encoding", "fusing", "grammar", "packed", "parallel", "vision"),
    *(
        "test_noise.py",
        "shards/test_entities.py",
        "shards/test_generation_keys.py",
        "checkpoint/test_slow_tokenizer.py",
        "checkpoint/test_gguf.py",
        "checkpoint/test_adapter.py",
    ),
    *(f"loading/{name}" for name in LOADING),
)

collect_ignore = [] if find_spec("torch") else [str(HERE / name) for name in TORCH]


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
