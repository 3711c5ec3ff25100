"""Requests for embeddings as requests of the engine: each line's texts, one or several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from parquetry.schemas.errors import RowError
from parquetry.schemas.manifest import JobRecord
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.preparation.asked import Asked
from parquetry.workers.preparation.cells import or_error
from parquetry.workers.preparation.preparation import Preparation, require_tokens
from parquetry.workers.preparation.requests.body import Bodies, Body, is_id_list, is_text_list, refuse
from parquetry.workers.preparation.requests.request_prompts import read_bodies
from parquetry.workers.preparation.texts import embedding_prompt
from parquetry.workers.preparation.tokenization import Tokenizer, Tokens
from parquetry.workers.request import EncodeRequest, Request

#: texts of one line, as OpenAI has it
MAX_TEXTS = 2048
#: a text, or the token ids of one
Text = str | np.ndarray


class RequestTexts(Preparation):
    """Lines of a batch for embeddings."""

    def __init__(self, record: JobRecord, checkpoint: Checkpoint, tokenizer: Tokenizer) -> None:
        spec = record.spec
        self._bodies = Bodies(spec)
        self._dimensions = spec.embed.dimensions
        self._prefix = embedding_prompt(spec, checkpoint)
        if checkpoint.lowercases:
            tokenizer.lowercase()
        self._limit, self._truncate = checkpoint.context_window, spec.embed.truncate
        self._tokenizer = tokenizer

    def samples(self, tokens: Tokens) -> int:
        return 1 if tokens.asked is None else tokens.asked.num_samples

    def tokens(self, batch: pa.RecordBatch) -> list[Tokens | RowError]:
        bodies = read_bodies(self._bodies, batch)
        rows = [body if isinstance(body, RowError) else or_error(self._texts, body) for body in bodies]
        texts = [text for row in rows if isinstance(row, list) for text in row if isinstance(text, str)]
        encoded = iter(self._encode(texts))
        return [row if isinstance(row, RowError) else or_error(_together, self._filled(row, encoded)) for row in rows]

    def _texts(self, body: Body) -> list[Text]:
        if body.get("dimensions", self._dimensions) != self._dimensions:
            refuse("dimensions", f"the job gives {self._dimensions or 'all'} of a vector; set embed.dimensions")
        return _input(body.get("input"))

    def _encode(self, texts: Sequence[str]) -> list[Tokens | RowError]:
        why = " into the model's context window; shorten the text, or set embed.truncate: right"
        named = [self._prefix + text for text in texts]
        return self._tokenizer.encode(named, special_tokens=True, limit=self._limit, truncate=self._truncate, why=why)

    def _filled(self, row: Sequence[Text], encoded: Iterator[Tokens | RowError]) -> list[Tokens | RowError]:
        """The tokens of a row's texts; those of texts come from `encoded`, in order."""
        return [next(encoded) if isinstance(text, str) else self._given(text) for text in row]

    def _given(self, ids: np.ndarray) -> Tokens | RowError:
        if len(ids) > self._limit:
            return RowError(reason=f"input: {len(ids)} tokens, but at most {self._limit} fit")
        return Tokens(ids)

    def request(self, id: int, tokens: Tokens, row: int, sample: int) -> Request:
        assert tokens.asked is not None
        return EncodeRequest(id=id, token_ids=tokens.asked.texts[sample])


def _input(value: object) -> list[Text]:
    """The texts of a line. Raises RowError."""
    texts = value if isinstance(value, list) and not is_id_list(value) else [value]
    if not texts or len(texts) > MAX_TEXTS:
        refuse("input", f"it holds {len(texts):,} texts, and may hold 1 to {MAX_TEXTS:,}")
    if not is_text_list(texts) and not all(map(is_id_list, texts)):
        refuse("input", "it is required: a text, a list of texts, or token ids in place of these")
    return [text if isinstance(text, str) else np.asarray(text, np.int32) for text in texts]


def _together(texts: Sequence[Tokens | RowError]) -> Tokens:
    """The texts of a row as one. Raises RowError for one that is empty or too long."""
    ids = []
    for text in map(require_tokens, texts):
        if isinstance(text, RowError):
            raise text
        ids.append(text.ids)
    return Tokens(np.concatenate(ids), asked=Asked(len(ids), texts=tuple(ids)))
