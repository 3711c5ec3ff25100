"""When each row of a batch ends: at its own length, stop ids or stop strings, or when it is cancelled."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import tokenizers
import torch
from torch import Tensor
from transformers import StoppingCriteria

from parquetry.workers.grammar.padded import BatchGrammars
from parquetry.workers.process.pulse import SendPulse
from parquetry.workers.request import GenerationRequest, SamplingParams, UnderWay
from parquetry.workers.stops import StopMatcher


class RowStopping(StoppingCriteria):
    """Marks rows as done. The model's own end-of-sequence ids are left to transformers."""

    def __init__(
        self,
        requests: Sequence[GenerationRequest],
        tokenizer: tokenizers.Tokenizer,
        cancelled: Collection[int],
        send_pulse: SendPulse,
        grammars: BatchGrammars | None = None,
    ) -> None:
        self._grammars = grammars
        self._requests = requests
        self._limits = [request.params.max_new_tokens for request in requests]
        self._matchers = {
            index: _matcher(tokenizer, request.params) for index, request in enumerate(requests) if request.params.stop
        }
        self._watched = {index for index, request in enumerate(requests) if _needs_tokens(request.params)}
        self._cancelled = cancelled
        self._send_pulse = send_pulse
        self._num_outputs = 0
        self._done = [False] * len(requests)
        #: outputs of a row at which its stop string, or the text its grammar asks for, was complete
        self.matched: dict[int, int] = {}

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: object) -> Tensor:
        """(num_rows,) bool: rows that are done."""
        self._send_pulse()
        self._num_outputs += 1
        # only rows with stops need their tokens on the host, which waits for the device
        last = input_ids[:, -1].tolist() if self._watched else []
        for index, request in enumerate(self._requests):
            if not self._done[index]:
                self._done[index] = self._ends(index, request, last)
        return torch.tensor(self._done, device=input_ids.device)

    def under_way(self) -> list[UnderWay]:
        """How far the rows are; one that ended itself seems to go on, as its batch does."""
        if not self._num_outputs:
            return []
        pairs = zip(self._requests, self._limits, strict=True)
        return [UnderWay(r.id, len(r.prompt_ids), min(self._num_outputs, limit)) for r, limit in pairs]

    def _ends(self, index: int, request: GenerationRequest, last: list[int]) -> bool:
        stops = index in self._watched and self._stops(index, request, last)
        return stops or self._num_outputs >= self._limits[index] or request.id in self._cancelled

    def _stops(self, index: int, request: GenerationRequest, last: list[int]) -> bool:
        if last[index] in request.params.stop_ids:
            return True
        is_whole = self._grammars is not None and self._grammars.push(index, last[index])
        matcher = self._matchers.get(index)
        if not is_whole and (matcher is None or not matcher.push(last[index])):
            return False
        self.matched[index] = self._num_outputs
        return True


def _needs_tokens(params: SamplingParams) -> bool:
    return bool(params.stop or params.stop_ids or params.grammar)


def _matcher(tokenizer: tokenizers.Tokenizer, params: SamplingParams) -> StopMatcher:
    return StopMatcher(tokenizer, params.stop, skip_special_tokens=params.skip_special_tokens)
