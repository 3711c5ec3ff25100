"""An engine without a model that takes the time a card would: prompts by their tokens, outputs a step a token.

It sleeps instead of computing, so how fast a job goes does not depend on what else the machine does. How long an output
is depends on the row alone.

Environment: PACED_LANES rows at once, PACED_PROMPT_S and PACED_STEP_S seconds a prompt token and a step of decoding,
PACED_LOAD_S seconds to load, PACED_OUTPUT mean output tokens (0: all reach their limit).
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Collection, Sequence

import numpy as np

from parquetry.workers.engine import Engine
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.request import Completion, GenerationRequest, Request, Result, UnderWay

#: prompt tokens that one step takes beside its decodes
STEP_PROMPT_TOKENS = 256


def open_engine(spec: EngineSpec) -> PacedEngine:
    """The engine factory named by PARQUETRY_ENGINE_FACTORY."""
    time.sleep(_number("LOAD_S", 3.0))
    return PacedEngine()


def _number(name: str, default: float) -> float:
    return float(os.environ.get(f"PACED_{name}", default))


class _Row:
    """A request in a lane."""

    def __init__(self, request: GenerationRequest, mean_output: float) -> None:
        self.request = request
        self.prompt = self.output = 0
        limit = request.params.max_new_tokens
        drawn = int(np.random.default_rng(request.row).geometric(1 / mean_output)) if mean_output else limit
        self.length = min(drawn, limit)

    @property
    def prompt_left(self) -> int:
        return len(self.request.prompt_ids) - self.prompt


class PacedEngine(Engine):
    """Continuous batching, by the clock."""

    def __init__(self) -> None:
        self._lanes, self._mean = int(_number("LANES", 16)), _number("OUTPUT", 40)
        self._prompt_s, self._step_s = _number("PROMPT_S", 0.0005), _number("STEP_S", 0.05)
        self._waiting: deque[GenerationRequest] = deque()
        self._running: list[_Row] = []
        self._computed = self._decoded = 0

    def add(self, requests: Sequence[Request]) -> None:
        self._waiting.extend(request for request in requests if isinstance(request, GenerationRequest))

    def step(self) -> list[Result]:
        while self._waiting and len(self._running) < self._lanes:
            self._running.append(_Row(self._waiting.popleft(), self._mean))
        decoding = [row for row in self._running if not row.prompt_left]
        time.sleep(self._prefill() * self._prompt_s + self._step_s * bool(decoding))
        for row in decoding:
            row.output += 1
        self._computed += len(decoding)
        self._decoded += len(decoding)
        over = [row for row in decoding if row.output >= row.length]
        self._running = [row for row in self._running if row not in over]
        return [self._completion(row) for row in over]

    def _prefill(self) -> int:
        budget = STEP_PROMPT_TOKENS
        for row in self._running:
            taken = min(row.prompt_left, budget)
            row.prompt += taken
            budget -= taken
        self._computed += STEP_PROMPT_TOKENS - budget
        return STEP_PROMPT_TOKENS - budget

    def _completion(self, row: _Row) -> Completion:
        ids = np.resize(row.request.prompt_ids, row.output).astype(np.int32)
        reason = "length" if row.output >= row.request.params.max_new_tokens else "stop"
        return Completion(id=row.request.id, output_ids=ids, finish_reason=reason)

    def cancel(self, ids: Collection[int]) -> None:
        gone = set(ids)
        self._waiting = deque(request for request in self._waiting if request.id not in gone)
        self._running = [row for row in self._running if row.request.id not in gone]

    @property
    def num_unfinished(self) -> int:
        return len(self._waiting) + len(self._running)

    def under_way(self) -> list[UnderWay]:
        return [UnderWay(row.request.id, row.prompt, row.output) for row in self._running]

    def describe(self) -> dict[str, str]:
        return {"backend": "paced", "attention": "none", "dtype": "none", "quantization": "none"}

    def stats(self) -> dict[str, float]:
        return {
            "computed_tokens": self._computed,
            "decode_tokens": self._decoded,
            "running": len(self._running),
            "waiting": len(self._waiting),
            "kv_use": len(self._running) / self._lanes,
        }
