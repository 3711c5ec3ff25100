"""Texts of any row, or pairs of texts, to classify, score or embed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from parquetry.schemas.errors import RowError
from parquetry.schemas.job import JobSpec
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.checkpoint.pooling import Pooling
from parquetry.workers.preparation.cells import cells, text_of
from parquetry.workers.preparation.preparation import Preparation, or_error, require_tokens
from parquetry.workers.preparation.tokenization import Tokenizer, Tokens
from parquetry.workers.request import EncodeRequest, Request


class TextPreparation(Preparation):
    """Texts, or pairs of texts, to classify, score or embed."""

    def __init__(self, spec: JobSpec, checkpoint: Checkpoint, tokenizer: Tokenizer) -> None:
        section = spec.embed if spec.task == "embed" else spec.classify
        self._text = section.text
        self._pair = None if spec.task == "embed" else spec.classify.text_pair
        self._prefix = embedding_prompt(spec, checkpoint) if spec.task == "embed" else ""
        if spec.task == "embed" and checkpoint.lowercases:
            tokenizer.lowercase()
        self._limit = {"limit": checkpoint.context_window, "truncate": section.truncate}
        self._limit["why"] = f" into the model's window; shorten the text, or set {spec.task}.truncate: right"
        self._tokenizer = tokenizer
        self._spans = spec.task == "classify" and checkpoint.is_token_classifier

    def tokens(self, batch: pa.RecordBatch) -> list[Tokens | RowError]:
        firsts = self._texts(self._text, batch)
        if self._pair is None:
            return self._encode(firsts)
        seconds = self._texts(self._pair, batch)
        return self._encode([_both(*pair) for pair in zip(firsts, seconds, strict=True)])

    def request(self, id: int, tokens: Tokens, row: int, sample: int) -> Request:
        return EncodeRequest(id=id, token_ids=tokens.ids, token_type_ids=tokens.type_ids)

    def _texts(self, name: str, batch: pa.RecordBatch) -> list[str | RowError]:
        values = cells(name, batch[name])
        if not self._prefix and all(type(value) is str for value in values):
            return values
        return [or_error(self._read, name, value) for value in values]

    def _read(self, name: str, value: Any) -> str:
        return self._prefix + text_of(name, value)

    def _encode(self, inputs: Sequence[str | tuple[str, str] | RowError]) -> list[Tokens | RowError]:
        good = [value for value in inputs if not isinstance(value, RowError)]
        if self._pair is None:
            encoded = iter(self._tokenizer.encode(good, special_tokens=True, spans=self._spans, **self._limit))
        else:
            encoded = iter(self._tokenizer.encode_pairs(good, **self._limit))
        return [value if isinstance(value, RowError) else require_tokens(next(encoded)) for value in inputs]


def embedding_prompt(spec: JobSpec, checkpoint: Checkpoint) -> str:
    """What goes before every text. Raises InvalidValueError for a prompt that the model does not have."""
    return (checkpoint.pooling or Pooling({}, normalize=False)).prompt(spec.embed.prompt)


def _both(first: str | RowError, second: str | RowError) -> tuple[str, str] | RowError:
    return next((value for value in (first, second) if isinstance(value, RowError)), (first, second))
