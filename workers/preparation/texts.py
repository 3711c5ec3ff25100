"""Inputs of tasks classify, score and embed: one text a row, or a pair."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa

from parquetry.schemas.errors import RowError
from parquetry.schemas.spec.job import ClassifySpec, EmbedSpec, JobSpec
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.checkpoint.pooling import Pooling
from parquetry.workers.checkpoint.score_modules import default_prompt, score_modules
from parquetry.workers.preparation.cells import cells, or_error, text_of
from parquetry.workers.preparation.pair_template import PairTemplate
from parquetry.workers.preparation.preparation import Preparation, require_tokens
from parquetry.workers.preparation.tokenization import Tokenizer, Tokens
from parquetry.workers.request import EncodeRequest, Request

_WINDOW = " into the model's context window"


class TextPreparation(Preparation):
    """Texts or pairs of texts from their columns, tokenized within the context window."""

    def __init__(self, spec: JobSpec, checkpoint: Checkpoint, tokenizer: Tokenizer, now: datetime) -> None:
        """`now` is what a template that prints a date gets."""
        section: EmbedSpec | ClassifySpec = spec.embed if spec.task == "embed" else spec.classify
        self._text = section.text
        self._pair = None if spec.task == "embed" else spec.classify.text_pair
        self._prefix = embedding_prompt(spec, checkpoint) if spec.task == "embed" else ""
        self._template, self._begin = None, ""
        if spec.task == "score" and score_modules(checkpoint, spec.task):
            self._template = PairTemplate.of(checkpoint, now=now)
            self._begin = "" if self._template else default_prompt(checkpoint)
        if spec.task == "embed" and checkpoint.lowercases:
            tokenizer.lowercase()
        self._limit, self._truncate = checkpoint.context_window, section.truncate
        self._why = f"{_WINDOW}; shorten the text, or set {spec.task}.truncate: right"
        self._tokenizer = tokenizer
        self._spans = spec.task == "classify" and checkpoint.is_token_classifier

    def tokens(self, batch: pa.RecordBatch) -> list[Tokens | RowError]:
        firsts = self._texts(self._text, batch)
        if self._pair is None:
            return self._filled(firsts, self._encode([text for text in firsts if isinstance(text, str)]))
        pairs = [_both(*pair) for pair in zip(firsts, self._texts(self._pair, batch), strict=True)]
        if self._template is not None:
            texts = self._template.texts(pairs)
            return self._filled(texts, self._encode_whole([text for text in texts if isinstance(text, str)]))
        pairs = [(self._begin + pair[0], pair[1]) if isinstance(pair, tuple) else pair for pair in pairs]
        return self._filled(pairs, self._encode_pairs([pair for pair in pairs if isinstance(pair, tuple)]))

    def request(self, id: int, tokens: Tokens, row: int, sample: int) -> Request:
        return EncodeRequest(id=id, token_ids=tokens.ids, token_type_ids=tokens.type_ids)

    def _texts(self, name: str, batch: pa.RecordBatch) -> Sequence[str | RowError]:
        values = cells(name, batch[name])
        if not self._prefix and all(type(value) is str for value in values):
            return values
        return [or_error(self._read, name, value) for value in values]

    def _read(self, name: str, value: Any) -> str:
        return self._prefix + text_of(name, value)

    def _encode(self, texts: Sequence[str]) -> Sequence[Tokens | RowError]:
        return self._tokenizer.encode(
            texts,
            special_tokens=True,
            limit=self._limit,
            truncate=self._truncate,
            why=self._why,
            spans=self._spans,
        )

    def _encode_whole(self, texts: Sequence[str]) -> Sequence[Tokens | RowError]:
        """What a template wrote, special tokens included; its end is what a score is read from, so nothing is cut."""
        why = f"{_WINDOW}; shorten the texts, which stand within a chat template"
        return self._tokenizer.encode(texts, special_tokens=False, limit=self._limit, truncate="error", why=why)

    def _encode_pairs(self, pairs: Sequence[tuple[str, str]]) -> Sequence[Tokens | RowError]:
        return self._tokenizer.encode_pairs(pairs, limit=self._limit, truncate=self._truncate, why=self._why)

    @staticmethod
    def _filled(inputs: Sequence[object], encoded: Sequence[Tokens | RowError]) -> list[Tokens | RowError]:
        """The tokens of the inputs that were encoded, at their indices; the other inputs are errors."""
        found = iter(encoded)
        return [value if isinstance(value, RowError) else require_tokens(next(found)) for value in inputs]


def embedding_prompt(spec: JobSpec, checkpoint: Checkpoint) -> str:
    """The prompt put before every text. Raises InvalidValueError for the name of one that the model does not have."""
    return (checkpoint.pooling or Pooling({}, normalize=False)).prompt(spec.embed.prompt)


def _both(first: str | RowError, second: str | RowError) -> tuple[str, str] | RowError:
    if isinstance(first, RowError):
        return first
    return second if isinstance(second, RowError) else (first, second)
