"""A model is traced to ONNX once in all processes of a session: of the same weights and spec comes the same graph."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this session alone, which the processes of pytest-xdist share."""
    base = tmp_path_factory.getbasetemp()
    # without other processes, the folder above belongs to earlier sessions as well
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "onnx-traces"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session", autouse=True)
def traced_once(traces: Path) -> Iterator[None]:
    """Exports still load, quantize, compare and move; only the tracing of what was traced already is a copy."""
    from filelock import FileLock

    from parquetry.workers.encoding.onnx import exporting

    trace = exporting.trace

    def trace_once(model: Any, file: Path, spec: Any, known: Any, position_start: int = 0) -> None:
        folder = traces / trace_key(model, file, spec, position_start)
        with FileLock(f"{folder}.lock"):
            if not folder.is_dir():
                aside = folder.with_suffix(".part")
                aside.mkdir(exist_ok=True)
                trace(model, aside / file.name, spec, known, position_start)
                aside.rename(folder)
        shutil.copytree(folder, file.parent, dirs_exist_ok=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "trace", trace_once)
        yield


def trace_key(model: Any, file: Path, spec: Any, position_start: int) -> str:
    """Hex digits of everything that the graph is made of; int8 is made of the finished float32 file."""
    graph = {name: value for name, value in spec.graph().items() if name not in ("quantization", "weight_bits")}
    facts = [type(model).__name__, model.config.to_dict(), graph, position_start, file.name]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:24]
