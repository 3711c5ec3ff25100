"""Vision-language models through transformers' padded generate, with images made ready ahead of the device."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from parquetry.schemas.errors import RowError
from parquetry.workers.padded.generate import MAX_ROWS, TransformersGenerate, failed
from parquetry.workers.padded.trial import trial_logits, trial_outputs
from parquetry.workers.request import Completion, GenerationRequest, Request, Result, VisionRequest
from parquetry.workers.vision.collation import Row, collate
from parquetry.workers.vision.rows_ahead import Made, RowsAhead

#: seconds to wait for a finished row at a time
_WAIT_S = 1.0


class VisionGenerate(TransformersGenerate):
    """Length-sorted batches of prompts with images, whose tokens count for lengths and for the token budget."""

    def __init__(self, *args: Any, make: Callable[[VisionRequest], Row], max_model_len: int, **options: Any) -> None:
        """`make` is called in threads and may raise RowError; `max_model_len` bounds prompt and output together."""
        super().__init__(*args, **options)
        self._max_model_len = max_model_len
        self._ahead = RowsAhead(make)
        #: what was made of each request until it is answered
        self._rows: dict[int, Row] = {}
        inherited = self._send_pulse

        def send_pulse() -> None:
            inherited()
            # between two tokens is when room may have come up
            self._ahead.fill()

        self._send_pulse = send_pulse

    def add(self, requests: Sequence[Request]) -> None:
        """Queue requests; those with images are made ready first."""
        self._ahead.add(request for request in requests if isinstance(request, VisionRequest))
        super().add([request for request in requests if not isinstance(request, VisionRequest)])

    def step(self) -> list[Result]:
        """Generate one batch to its end, of the rows that are ready."""
        self._gather()
        results = super().step()
        self._release()
        return results

    def _gather(self) -> None:
        """Wait until there is enough to sort by length, or nothing more to wait for."""
        while len(self._ahead) and not self._ahead.is_full and len(self._waiting) < MAX_ROWS:
            found = self._ahead.take(_WAIT_S)
            for request, made in found:
                self._arrive(request, made)
            # a row that is never ready must end like a model that hangs: its engine is killed, and the row found out
            if found:
                self._send_pulse()

    def _arrive(self, request: VisionRequest, made: Made) -> None:
        problem = str(made) if isinstance(made, RowError) else self._length_problem(request, made)
        if isinstance(made, RowError) or problem is not None:
            self._ready.append(failed(request, problem or str(made)))
            self._ahead.release([made])
            return
        self._rows[request.id] = made
        ids = made["input_ids"][0].numpy().astype(np.int32)
        names = ("id", "row", "sample", "adapter", "params")
        fields = {name: getattr(request, name) for name in names}
        super().add([GenerationRequest(prompt_ids=ids, **fields)])

    def _length_problem(self, request: VisionRequest, row: Row) -> str | None:
        length, limit = row["input_ids"].shape[1], self._max_model_len - request.params.max_new_tokens
        if length <= limit:
            return None
        beside = f"beside max_new_tokens {request.params.max_new_tokens} in the model's {self._max_model_len}"
        return f"{length} tokens with those of its images, but at most {limit} fit {beside}"

    def _generate(self, batch: list[GenerationRequest]) -> list[Completion]:
        # some models count the images of a batch by its rows, so that rows without any stay by themselves
        seeing = [request for request in batch if self._sees(request)]
        blind = [request for request in batch if not self._sees(request)]
        generate = super()._generate
        return [completion for requests in (seeing, blind) if requests for completion in generate(requests)]

    def _sees(self, request: GenerationRequest) -> bool:
        return any(name.startswith("pixel") for name in self._rows[request.id])

    def trial_of(self, rows: Sequence[Row]) -> list[torch.Tensor]:
        """What one batch of `rows` would go by: logits (num_outputs, vocab_size) of each."""
        # from their ends, where there is text
        ends = [row["input_ids"][0].numpy()[::-1] for row in rows]
        outputs = torch.from_numpy(trial_outputs(ends, self._eos_ids)).to(self.model.device)
        return trial_logits(self.model, self._collated(rows), outputs)

    def _inputs(self, batch: list[GenerationRequest]) -> dict[str, torch.Tensor]:
        return self._collated([self._rows[request.id] for request in batch])

    def _collated(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        return {name: value.to(self.model.device) for name, value in collate(rows, self._pad_id).items()}

    def _completion(self, request: GenerationRequest, *args: Any) -> Completion:
        return replace(super()._completion(request, *args), num_prompt_tokens=len(request.prompt_ids))

    def _release(self) -> None:
        """Let go of what belongs to no waiting request."""
        waiting = {request.id for request in self._waiting}
        used = [self._rows.pop(id) for id in [*self._rows] if id not in waiting]
        self._ahead.release(used)

    def cancel(self, ids: Collection[int]) -> None:
        """Forget requests; those of a running batch end at its next token."""
        self._ahead.forget(set(ids))
        super().cancel(ids)

    @property
    def num_unfinished(self) -> int:
        return super().num_unfinished + len(self._ahead)

    def stats(self) -> dict[str, float]:
        return {**super().stats(), "bytes_ahead": float(self._ahead.held_bytes)}

    def describe(self) -> dict[str, str]:
        return {**super().describe(), "rows_a_batch": str(self._waiting.max_rows)}
