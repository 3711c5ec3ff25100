"""The rows that every encoder back end must answer alike, and the tolerance each is held to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from parquetry.schemas.spec.job import ModelSpec, Task
from parquetry.workers.engine import Engine
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.request import EncodeRequest, Encoding


@dataclass(frozen=True)
class BackEnd:
    """A way to run an encoder, and how far its values may be from the padded float32 model's."""

    name: str
    backend: str
    quantization: str = "none"
    #: largest absolute difference of a score, or of an embedding's number
    tolerance: float = 1e-4

    def engine(self, folder: Path, task: Task, *, device: str = "cpu", dtype: str = "float32") -> Engine:
        # imported here, since Optimum's environment shares the rows but has another transformers
        from parquetry.workers.hosting.engine_choice import load_engine

        model = ModelSpec(id=str(folder), backend=self.backend, quantization=self.quantization, dtype=dtype)
        return load_engine(EngineSpec(task=task, model_path=str(folder), model=model, device=device, token_budget=128))


#: ids of the rows that no back end can serve
BROKEN = {100, 101, 102}


def rows(window: int, vocab_size: int) -> list[EncodeRequest]:
    """Short and long rows, single texts and pairs, and one row of each kind that must fail."""
    random = np.random.default_rng(3)
    good = [
        _row(i, random.integers(4, vocab_size, n), i % 3 == 0) for i, n in enumerate([1, 2, 3, 5, 9, window, 7, 30])
    ]
    empty = EncodeRequest(id=100, token_ids=np.empty(0, np.int32))
    long = _row(101, random.integers(4, vocab_size, window + 1), False)
    unknown = _row(102, np.array([5, vocab_size, 6]), False)
    return [*good[:4], empty, long, unknown, *good[4:]]


def _row(number: int, tokens: np.ndarray, is_pair: bool) -> EncodeRequest:
    types = (np.arange(len(tokens)) > len(tokens) // 2).astype(np.int32) if is_pair else None
    return EncodeRequest(id=number, token_ids=tokens.astype(np.int32), token_type_ids=types)


def answers(engine: Engine, requests: list[EncodeRequest]) -> dict[int, Encoding]:
    """Results by request id, added in two parts as a stream would."""
    results: dict[int, Encoding] = {}
    for part in (requests[:5], requests[5:]):
        engine.add(part)
        results.update({result.id: result for result in engine.step()})
    while engine.num_unfinished:
        results.update({result.id: result for result in engine.step()})
    return results
