"""Generation through transformers' own padded `generate`: serves every model, as fast as padding allows."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import tokenizers
import torch
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList

from parquetry.schemas.errors import GrammarError
from parquetry.workers.checkpoint.adapter import unknown_adapter
from parquetry.workers.checks.sharing import Sharing
from parquetry.workers.engine import Engine
from parquetry.workers.grammar.grammars import Grammars
from parquetry.workers.grammar.padded import BatchGrammars
from parquetry.workers.loading.adapters.adapter_bank import AdapterBank
from parquetry.workers.padded.batching import LengthSorted
from parquetry.workers.padded.decoder_prefix import decoder_options, decoder_prefix
from parquetry.workers.padded.padding import Side, pad_rows
from parquetry.workers.padded.sampling import RowSampling
from parquetry.workers.padded.stopping import RowStopping
from parquetry.workers.padded.trial import trial_logits, trial_outputs
from parquetry.workers.process.pulse import SendPulse
from parquetry.workers.request import Completion, GenerationRequest, Request, Result, UnderWay
from parquetry.workers.vocabulary_check import unknown_ids

#: rows one batch holds at most
MAX_ROWS = 256


class TransformersGenerate(Engine):
    """Length-sorted batches under a token budget, prompts padded on the left; one step is one batch."""

    gives_model_back = True

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: tokenizers.Tokenizer,
        *,
        eos_ids: Collection[int],
        pad_id: int,
        token_budget: int,
        max_rows: int = MAX_ROWS,
        about: dict[str, str] | None = None,
        send_pulse: SendPulse = lambda: None,
    ) -> None:
        self.model = model
        self._tokenizer = tokenizer
        self._eos_ids = frozenset(eos_ids)
        self._pad_id = pad_id
        self._about = about or {}
        self._send_pulse = send_pulse
        self._groups_by_length = False
        self._vocab_size = model.get_input_embeddings().weight.shape[0]
        self._adapters = AdapterBank.of(model)
        self._grammars = Grammars(tokenizer, self._vocab_size, self._eos_ids, model.device)
        #: given to the decoder of an encoder-decoder before its first token; empty for a decoder
        self._prefix = decoder_prefix(model) if model.config.is_encoder_decoder else []
        self._waiting: LengthSorted[GenerationRequest] = LengthSorted(token_budget=token_budget, max_rows=max_rows)
        self._running: set[int] = set()
        #: of the batch that is being generated
        self._stopping: RowStopping | None = None
        self._cancelled: set[int] = set()
        self._ready: list[Completion] = []
        self._counters = dict.fromkeys(("prompt_tokens", "output_tokens", "padding_tokens", "out_of_memory"), 0)
        # the checkpoint's own sampling defaults must not leak into greedy rows
        self._own_config = model.generation_config
        model.generation_config = self._generation_config()

    def _generation_config(self) -> GenerationConfig:
        # a forced end would end a row where others of its batch go on, and would say that it stopped by itself
        return GenerationConfig(
            do_sample=False,
            eos_token_id=sorted(self._eos_ids) or None,
            pad_token_id=self._pad_id,
            **(decoder_options(self.model, self._prefix) if self._prefix else {}),
        )

    def share(self, sharing: Sharing) -> None:
        """From now on let these rows share a batch and no others; provenance says why."""
        self._groups_by_length = sharing.rows == "equal lengths"
        if sharing.rows == "none":
            self._waiting.max_rows = 1
        self.note(sharing.facts)

    def note(self, facts: dict[str, str]) -> None:
        """Say this too in `describe`, and so in provenance."""
        self._about = {**self._about, **facts}

    def trial(self, rows: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """What one batch of `rows` (each (num_tokens,) int32) would go by: logits (num_outputs, vocab_size) of each."""
        inputs = self._inputs([GenerationRequest(id=number, prompt_ids=row) for number, row in enumerate(rows)])
        outputs = torch.from_numpy(trial_outputs(rows, self._eos_ids)).to(self.model.device)
        return trial_logits(self.model, inputs, outputs)

    def add(self, requests: Sequence[Request]) -> None:
        """Queue generation requests; one whose ids the model does not know is answered with an error."""
        for request in requests:
            assert isinstance(request, GenerationRequest)
            error = self._problem(request)
            if error is not None:
                self._ready.append(failed(request, error))
            else:
                length = len(request.prompt_ids)
                group = length if self._groups_by_length else 0
                self._waiting.add(request, length + request.params.max_new_tokens, group)

    def _problem(self, request: GenerationRequest) -> str | None:
        if not len(request.prompt_ids):
            return "the prompt has no tokens"
        if problem := unknown_ids("the prompt", request.prompt_ids, self._vocab_size):
            return problem
        if request.adapter is not None and request.adapter not in self._adapters.names:
            return unknown_adapter(request.adapter, self._adapters.names)
        try:
            if request.params.grammar is not None:
                self._grammars.start(request.params.grammar)
        except GrammarError as error:
            return str(error)
        return None

    def step(self) -> list[Result]:
        """Generate one batch to its end."""
        batch = self._waiting.take()
        if batch:
            self._running = {request.id for request in batch}
            self._ready += self._generate(batch)
        gone, self._cancelled, self._running, self._stopping = self._cancelled, set(), set(), None
        ready, self._ready = self._ready, []
        return [completion for completion in ready if completion.id not in gone]

    def _generate(self, batch: list[GenerationRequest]) -> list[Completion]:
        try:
            return self._run(batch)
        except torch.OutOfMemoryError:
            self._counters["out_of_memory"] += 1
        # out of the except block, so that the traceback no longer holds the tensors
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        return self._retreat(batch)

    def _retreat(self, batch: list[GenerationRequest]) -> list[Completion]:
        """After an out-of-memory: smaller batches from now on; a row that does not fit alone is an error row."""
        if len(batch) == 1:
            length = len(batch[0].prompt_ids)
            return [failed(batch[0], f"the device ran out of memory on this row alone ({length} prompt tokens)")]
        longest = max(len(request.prompt_ids) + request.params.max_new_tokens for request in batch)
        self._waiting.shrink(len(batch), longest)
        self.add([request for request in batch if request.id not in self._cancelled])
        return []

    @torch.inference_mode()
    def _run(self, batch: list[GenerationRequest]) -> list[Completion]:
        inputs = self._inputs(batch)
        mask = inputs["attention_mask"]
        before, before_mask = self._before_output(inputs)
        grammars = BatchGrammars(self._grammars, [request.params.grammar for request in batch])
        sampling = RowSampling(batch, before, before_mask, grammars)
        stopping = RowStopping(batch, self._tokenizer, self._cancelled, self._send_pulse, grammars)
        self._stopping = stopping
        numbers = [self._adapters.number(request.adapter) for request in batch]
        with self._adapters.choosing(torch.tensor(numbers, device=mask.device)):
            output = self.model.generate(
                **inputs,
                max_new_tokens=max(request.params.max_new_tokens for request in batch),
                logits_processor=LogitsProcessorList([sampling]),
                stopping_criteria=StoppingCriteriaList([stopping]),
            )
        outputs = output[:, before.shape[1] :].cpu().numpy().astype(np.int32)
        logprobs = sampling.logprobs()
        self._counters["padding_tokens"] += int((mask == 0).sum())
        return [
            failed(request, problem)
            if (problem := grammars.problem(index))
            else self._completion(request, outputs[index], stopping.matched.get(index), logprobs, index)
            for index, request in enumerate(batch)
        ]

    def _inputs(self, batch: list[GenerationRequest]) -> dict[str, torch.Tensor]:
        """Arguments of `generate`: token ids and attention mask, (num_rows, max_prompt_tokens) int64."""
        # a decoder's newest token stands in the last column; an encoder's positions are counted from the first
        side: Side = "right" if self._prefix else "left"
        ids, mask = pad_rows([request.prompt_ids for request in batch], self._pad_id, side)
        inputs = {"input_ids": ids, "attention_mask": mask}
        if self._prefix:
            inputs["decoder_input_ids"] = np.array([self._prefix] * len(batch), dtype=np.int64)
        return {name: torch.from_numpy(value).to(self.model.device) for name, value in inputs.items()}

    def _before_output(self, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask of the tokens before the output: the prompt, or the decoder's prefix of an encoder-decoder."""
        if not self._prefix:
            return inputs["input_ids"], inputs["attention_mask"]
        return inputs["decoder_input_ids"], torch.ones_like(inputs["decoder_input_ids"])

    def _completion(
        self, request: GenerationRequest, row: np.ndarray, matched: int | None, logprobs: np.ndarray | None, index: int
    ) -> Completion:
        length, reason = self._ending(request, row, matched)
        self._counters["prompt_tokens"] += len(request.prompt_ids)
        self._counters["output_tokens"] += length
        return Completion(
            id=request.id,
            output_ids=row[:length],
            finish_reason=reason,
            logprobs=logprobs[index, :length] if request.params.logprobs and logprobs is not None else None,
        )

    def _ending(self, request: GenerationRequest, row: np.ndarray, matched: int | None) -> tuple[int, str]:
        """Tokens of the row that are its output, and why they end there."""
        limit = min(request.params.max_new_tokens, len(row))
        stop_ids = sorted(self._eos_ids.union(request.params.stop_ids))
        ends = np.flatnonzero(np.isin(row[:limit], stop_ids))
        if len(ends) and (matched is None or ends[0] < matched):
            return int(ends[0]), "stop"
        return (limit, "length") if matched is None else (matched, "stop")

    def cancel(self, ids: Collection[int]) -> None:
        """Forget requests; those of a running batch end at its next token."""
        gone = set(ids)
        self._waiting.forget(gone)
        self._cancelled |= gone & self._running
        self._ready = [completion for completion in self._ready if completion.id not in gone]

    @property
    def num_unfinished(self) -> int:
        return len(self._waiting) + len(self._running - self._cancelled) + len(self._ready)

    def describe(self) -> dict[str, str]:
        return {"backend": "transformers", **self._about}

    def stats(self) -> dict[str, float]:
        """As EngineStats, and `token_budget`; padding is that of prompts, for that of outputs is not told apart."""
        computed = self._counters["prompt_tokens"] + self._counters["output_tokens"]
        held = {"running": len(self._running), "waiting": len(self._waiting)}
        return {**self._counters, **held, "computed_tokens": computed, "token_budget": self._waiting.token_budget}

    def under_way(self) -> list[UnderWay]:
        return [] if self._stopping is None else self._stopping.under_way()

    def close(self) -> None:
        self.model.generation_config = self._own_config


def failed(request: GenerationRequest, error: str) -> Completion:
    """The result of a request that failed; `reason` is one short sentence."""
    return Completion(id=request.id, output_ids=np.empty(0, np.int32), finish_reason="error", error=error)
