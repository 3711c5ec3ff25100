"""An engine without a model: answers each prompt with itself, and does what a spell in the prompt says.

POISON kills the engine whenever it is met, and RAISE has it raise the same error. KILL, SEGV, HANG and OOM strike once
in the whole job, so the next attempt goes through. SLOW costs ten rows' time. Every row begun is logged, so that work
done twice can be counted.

Environment: CHAOS_LOG a folder for the logs, CHAOS_MS_PER_ROW the price of a row.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import time
from collections import deque
from collections.abc import Collection, Sequence
from pathlib import Path

from parquetry.workers.engine import Engine
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.request import Completion, GenerationRequest
from tests.chaos.input_table import VOCABULARY

#: what a step may hold: rows, and their price
BATCH_ROWS = 32
BATCH_MS = 250.0
_TOKEN = {word: number for number, word in enumerate(VOCABULARY)}


def open_engine(spec: EngineSpec) -> EchoEngine:
    """The engine factory named by PARQUETRY_ENGINE_FACTORY."""
    folder = os.environ.get("CHAOS_LOG")
    return EchoEngine(Path(folder) if folder else None, float(os.environ.get("CHAOS_MS_PER_ROW", "1")))


class EchoEngine(Engine):
    """Answers in order of arrival, one small batch a step."""

    def __init__(self, log: Path | None, ms_per_row: float) -> None:
        self._log, self._ms_per_row = log, ms_per_row
        self._waiting: deque[GenerationRequest] = deque()
        self._num_tokens = 0
        if log is not None:
            log.mkdir(parents=True, exist_ok=True)

    def add(self, requests: Sequence[GenerationRequest]) -> None:
        self._waiting.extend(requests)

    def step(self) -> list[Completion]:
        batch = self._take()
        self._note(batch)
        for request in batch:
            self._obey(request)
        time.sleep(sum(map(self._price_ms, batch)) / 1000)
        return [self._answer(request) for request in batch]

    def cancel(self, ids: Collection[int]) -> None:
        gone = set(ids)
        self._waiting = deque(request for request in self._waiting if request.id not in gone)

    @property
    def num_unfinished(self) -> int:
        return len(self._waiting)

    def describe(self) -> dict[str, str]:
        return {"backend": "echo", "attention": "none", "dtype": "none", "quantization": "none"}

    def stats(self) -> dict[str, float]:
        return {"prompt_tokens": self._num_tokens, "output_tokens": self._num_tokens, "waiting": self.num_unfinished}

    def _take(self) -> list[GenerationRequest]:
        batch: list[GenerationRequest] = []
        while self._waiting and len(batch) < BATCH_ROWS and sum(map(self._price_ms, batch)) < BATCH_MS:
            batch.append(self._waiting.popleft())
        return batch

    def _answer(self, request: GenerationRequest) -> Completion:
        self._num_tokens += len(request.prompt_ids)
        return Completion(id=request.id, output_ids=request.prompt_ids, finish_reason="stop")

    def _price_ms(self, request: GenerationRequest) -> float:
        return self._ms_per_row * (10 if _TOKEN["SLOW"] in request.prompt_ids else 1)

    def _obey(self, request: GenerationRequest) -> None:
        if _TOKEN["POISON"] in request.prompt_ids:
            os.kill(os.getpid(), signal.SIGKILL)
        if _TOKEN["RAISE"] in request.prompt_ids:
            raise IndexError(f"position {request.row} is beyond the table")
        for word, strike in _STRIKES.items():
            if _TOKEN[word] in request.prompt_ids and self._first(word, request.row):
                strike()

    def _first(self, word: str, row: int) -> bool:
        """Whether this spell strikes for the first time in the whole job."""
        if self._log is None:
            return True
        try:
            os.close(os.open(self._log / f"struck-{word}-{row}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    def _note(self, batch: list[GenerationRequest]) -> None:
        if self._log is None:
            return
        with (self._log / f"rows-{os.getpid()}").open("ab") as file:
            file.write(b"".join(struct.pack("<q", request.row) for request in batch))


def _out_of_memory() -> None:
    raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")


_STRIKES = {
    "KILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "SEGV": lambda: ctypes.string_at(0),
    "HANG": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "OOM": _out_of_memory,
}


def rows_begun(log: Path) -> list[int]:
    """Every row begun by any engine that logged there, as often as it was begun; order is lost."""
    rows: list[int] = []
    for file in log.glob("rows-*"):
        data = file.read_bytes()
        rows.extend(struct.unpack(f"<{len(data) // 8}q", data[: len(data) // 8 * 8]))
    return rows
