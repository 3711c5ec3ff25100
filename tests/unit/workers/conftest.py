"""What an environment without an extra collects of these rooms."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
#: rooms, and test files of the other rooms, whose modules load torch
TORCH = (
    *("hosting", "padded", "encoding", "fusing", "grammar", "packed", "parallel", "vision"),
    *("test_noise.py", "shards/test_entities.py", "checkpoint/test_gguf.py", "checkpoint/test_adapter.py"),
    *(f"loading/test_{name}.py" for name in ("adapter_bank", "attention_choice", "loading_matrix", "quantized_probe")),
)

collect_ignore = [] if find_spec("torch") else [str(HERE / name) for name in TORCH]
