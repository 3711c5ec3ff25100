"""Rows for encoders on a card, and what an engine makes of them."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from parquetry.workers.request import EncodeRequest

VOCAB = 1000


def has_onnx_cuda() -> bool:
    """Whether ONNX Runtime here was built for CUDA."""
    if not importlib.util.find_spec("onnxruntime"):
        return False
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


needs_onnx_cuda = pytest.mark.skipif(not has_onnx_cuda(), reason="onnxruntime-gpu is not installed")


def requests_of(count: int, longest: int = 512, seed: int = 0) -> list[EncodeRequest]:
    """Rows of 1 to `longest` - 1 tokens."""
    random = np.random.default_rng(seed)
    sizes = random.integers(1, longest, count)
    return [EncodeRequest(id=i, token_ids=random.integers(5, VOCAB, n).astype(np.int32)) for i, n in enumerate(sizes)]


def rows_of(engine, requests: list[EncodeRequest]) -> list[np.ndarray]:
    """The values of each row, in the order of the requests."""
    engine.add(requests)
    found = {}
    while engine.num_unfinished:
        found.update({result.id: result for result in engine.step()})
    assert not [result.error for result in found.values() if result.error]
    return [found[request.id].values for request in requests]


def values_of(engine, requests: list[EncodeRequest]) -> np.ndarray:
    """(num_rows, dim)."""
    return np.stack(rows_of(engine, requests))


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """Relative error of all values together."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
