"""Requests on their way in: sequences for the scheduler, and at once an answer to requests that need no model."""

from __future__ import annotations

from tokenizers import Tokenizer

from parquetry.schemas.errors import GrammarError
from parquetry.workers.checkpoint.adapter import unknown_adapter
from parquetry.workers.grammar.grammars import Grammars
from parquetry.workers.loading.adapters.adapter_bank import AdapterBank
from parquetry.workers.packed.scheduling.sequence import Sequence
from parquetry.workers.request import Completion, GenerationRequest
from parquetry.workers.stops import StopMatcher
from parquetry.workers.vocabulary_check import unknown_ids


class Intake:
    """Checks requests against one model, its tokenizer and its adapters."""

    def __init__(self, tokenizer: Tokenizer | None, grammars: Grammars, adapters: AdapterBank, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._grammars = grammars
        self._adapters = adapters
        self._vocab_size = vocab_size

    def take(self, request: GenerationRequest) -> Sequence | Completion:
        """The request as a sequence for the scheduler, or its completion where no model is needed.

        Raises ValueError for stop strings and grammars without a tokenizer."""
        if problem := self._problem(request):
            return Sequence(request).fail(problem)
        sequence = Sequence(request, self._adapters.number(request.adapter))
        if request.params.max_new_tokens < 1:
            return Completion(id=request.id, output_ids=sequence.tokens[:0], finish_reason="length")
        try:
            self._watch(sequence)
        except GrammarError as error:
            return sequence.fail(str(error))
        return sequence

    def _problem(self, request: GenerationRequest) -> str | None:
        """Why the model cannot take the request, or None."""
        names = self._adapters.names
        if request.adapter is not None and request.adapter not in names:
            return unknown_adapter(request.adapter, names)
        return unknown_ids("the prompt", request.prompt_ids, self._vocab_size)

    def _watch(self, sequence: Sequence) -> None:
        """Give the sequence its stop matcher and its grammar. Raises GrammarError."""
        params = sequence.request.params
        if params.stop:
            if self._tokenizer is None:
                raise ValueError("stop strings need a tokenizer; use stop_ids or load one")
            sequence.matcher = StopMatcher(self._tokenizer, params.stop, skip_special_tokens=params.skip_special_tokens)
        if params.grammar is not None:
            sequence.grammar = self._grammars.start(params.grammar)
