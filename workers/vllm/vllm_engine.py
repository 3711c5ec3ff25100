"""Our engine interface over vLLM's engine loop: one step of it is one step of ours."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from parquetry.workers.engine import Engine
from parquetry.workers.request import Request, Result, UnderWay
from parquetry.workers.vllm.conversation import Conversation

if TYPE_CHECKING:
    from vllm import LLMEngine

log = logging.getLogger(__name__)
#: requests that wait inside, for every one that can run: enough for the scheduler, few enough to be cheap to take
_WAITING_FOR_RUNNING = 4
_COUNTED = ("prompt_tokens", "output_tokens", "computed_tokens", "cached_tokens", "padding_tokens")
#: a token budget below this is not worth shrinking to
MIN_TOKEN_BUDGET = 64


class VllmEngine(Engine):
    """`engine` must live in this process (VLLM_ENABLE_V1_MULTIPROCESSING=0)."""

    def __init__(self, engine: LLMEngine, conversation: Conversation, about: dict[str, str]) -> None:
        self._engine, self._conversation, self._about = engine, conversation, about
        #: every request that vLLM has, by the id it knows it by
        self._requests: dict[str, Request] = {}
        self._ready: list[Result] = []
        self._counters: Counter[str] = Counter()
        self._core: Any = engine.engine_core.engine_core
        self._scheduler: Any = self._core.scheduler

    def add(self, requests: Sequence[Request]) -> None:
        """Hand requests over; one that vLLM or the model does not take is answered with an error."""
        for request in requests:
            self._hand_over(request)

    def _hand_over(self, request: Request) -> None:
        try:
            asked = self._conversation.ask(request)
            named = {"lora_request": asked.lora, "tokenization_kwargs": asked.tokenization}
            self._engine.add_request(str(request.id), asked.prompt, asked.params, **named)
        except row_errors() as error:
            self._ready.append(self._conversation.refuse(request, one_line(error)))
        else:
            self._requests[str(request.id)] = request

    @property
    def is_hungry(self) -> bool:
        return len(self._scheduler.waiting) < _WAITING_FOR_RUNNING * self._scheduler.max_num_running_reqs

    def step(self) -> list[Result]:
        """One step of vLLM's scheduler and model."""
        if self._requests:
            self._step()
        ready, self._ready = self._ready, []
        return ready

    def _step(self) -> None:
        try:
            outputs = self._engine.step()
        except torch.OutOfMemoryError:
            outputs = None
        # out of the except block, so that the traceback no longer holds the tensors
        if outputs is None:
            self._start_again()
            return
        for output in outputs:
            if output.finished and (request := self._requests.pop(output.request_id, None)) is not None:
                self._ready.append(self._conversation.answer(request, output))
                self._count(output)

    def _count(self, output: Any) -> None:
        prompt, cached = self._conversation.num_prompt_tokens(output), output.num_cached_tokens or 0
        made = self._conversation.num_output_tokens(output)
        self._counters.update(prompt_tokens=prompt, cached_tokens=cached, output_tokens=made)
        self._counters["computed_tokens"] += prompt - cached + made

    def _start_again(self) -> None:
        """After an out-of-memory: every row starts again, under half the token budget.

        What the lost step was to compute stands in the prefix cache as if it had been, so the cache is emptied. A row
        that does not fit alone is an error row. Raises MemoryError where that does not help.
        """
        requests = list(self._requests.values())
        self._forget(list(self._requests))
        if not self._engine.reset_prefix_cache():
            raise MemoryError("out of memory, and vLLM's cache could not be emptied")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._counters["out_of_memory"] += 1
        if len(requests) == 1:
            self._ready.append(self._conversation.refuse(requests[0], "the device ran out of memory on this row alone"))
            return
        self._shrink()
        self.add(requests)

    def _shrink(self) -> None:
        budget = self._scheduler.max_num_scheduled_tokens // 2
        if budget < MIN_TOKEN_BUDGET:
            raise MemoryError(f"out of memory at a token budget of {2 * budget}, and it cannot shrink more")
        self._scheduler.max_num_scheduled_tokens = budget
        log.warning("out of memory: running rows start again with a token budget of %d", budget)

    def _forget(self, ids: list[str]) -> None:
        if self._core.batch_queue:
            self._core.batch_queue.clear()
        self._engine.abort_request(ids)
        self._requests.clear()

    def cancel(self, ids: Collection[int]) -> None:
        """Forget requests; their blocks are free at once."""
        gone = [str(number) for number in ids if str(number) in self._requests]
        for name in gone:
            del self._requests[name]
        if gone:
            self._engine.abort_request(gone)
        cancelled = set(ids)
        self._ready = [result for result in self._ready if result.id not in cancelled]

    @property
    def num_unfinished(self) -> int:
        return len(self._requests) + len(self._ready)

    def describe(self) -> dict[str, str]:
        return {"backend": "vllm", **self._about}

    def stats(self) -> dict[str, float]:
        """As EngineStats; vLLM computes no padding that it tells of."""
        running, waiting = len(self._scheduler.running), len(self._scheduler.waiting)
        zero = dict.fromkeys(
            ("prompt_tokens", "output_tokens", "computed_tokens", "cached_tokens", "padding_tokens"), 0
        )
        use = float(self._scheduler.kv_cache_manager.usage)
        return {**zero, **self._counters, "running": running, "waiting": waiting, "kv_use": use}

    def under_way(self) -> list[UnderWay]:
        return [
            UnderWay(int(name), min(row.num_computed_tokens, row.num_prompt_tokens), row.num_output_tokens)
            for row in self._scheduler.running
            # vLLM puts random letters behind the id it was given
            if (name := row.request_id.partition("-")[0]) in self._requests
        ]

    def close(self) -> None:
        self._core.shutdown()


@cache
def row_errors() -> tuple[type[Exception], ...]:
    """How vLLM refuses one request; its own class was a ValueError once."""
    from vllm.exceptions import VLLMValidationError

    return (ValueError, TypeError, VLLMValidationError)


def one_line(error: BaseException) -> str:
    """What matters of vLLM's message: pydantic's say where they come from first, and what is wrong on the next line."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    told = next((line for line in lines if line.startswith(("Value error, ", "Assertion failed, "))), None)
    text = (told or (lines or [type(error).__name__])[0]).removeprefix("Value error, ").partition(" [type=")[0]
    return text[:300].rstrip(".")
