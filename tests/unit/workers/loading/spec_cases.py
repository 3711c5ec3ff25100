"""Cards that are not here, and specs of one model."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.card import Card
from parquetry.workers.engine_spec import EngineSpec

GIB = 1 << 30
CPU = Card("cpu", "CPU", None, 64 * GIB)
H100 = Card("cuda", "NVIDIA H100", (9, 0), 80 * GIB)
A100 = Card("cuda", "NVIDIA A100", (8, 0), 40 * GIB)
T4 = Card("cuda", "Tesla T4", (7, 5), 16 * GIB)


def engine_spec(folder: Path, *, task: str = "generate", **model: object) -> EngineSpec:
    """An engine on the CPU for the model in `folder`."""
    options = ModelSpec(id=str(folder), **model)
    return EngineSpec(task=task, model_path=str(folder), model=options, token_budget=512)


def write_headers(file: Path, tensors: dict[str, tuple[str, tuple[int, ...]]]) -> Path:
    """A safetensors file that declares tensors and holds none."""
    entries = {
        name: {"dtype": dtype, "shape": list(shape), "data_offsets": [0, 0]} for name, (dtype, shape) in tensors.items()
    }
    text = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text)
    return file
