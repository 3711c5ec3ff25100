"""Prompts of task generate: rendered from a row, through the chat template, tokenized, within the context window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from parquetry.schemas.errors import InvalidValueError, RowError
from parquetry.schemas.manifest import JobRecord
from parquetry.schemas.spec.generation import PromptSpec
from parquetry.schemas.spec.job import JobSpec
from parquetry.workers.checkpoint.adapter import unknown_adapter
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.preparation.cells import cells, or_error, text_of
from parquetry.workers.preparation.chat import ChatTemplate
from parquetry.workers.preparation.preparation import Preparation, require_tokens
from parquetry.workers.preparation.rendering.answers import Failed, Rendered
from parquetry.workers.preparation.rendering.renderer import definition_of, renderer
from parquetry.workers.preparation.request_params import sampling_params
from parquetry.workers.preparation.template import Template, read_rows, row_error
from parquetry.workers.preparation.tokenization import Tokenizer, Tokens
from parquetry.workers.request import GenerationRequest, Request


class PromptPreparation(Preparation):
    """Prompts from a template or from a column of messages, through the chat template or plain."""

    def __init__(self, record: JobRecord, checkpoint: Checkpoint, tokenizer: Tokenizer) -> None:
        self._prompt = record.spec.prompt
        self._adapter_column = record.spec.model.adapter_column
        self._adapters = record.spec.model.adapters or {}
        self._params = sampling_params(record.spec.generation, tokenizer)
        self._tokenizer = tokenizer
        self._template = None if self._prompt.template is None else Template.parse(self._prompt.template)
        self._chat = ChatTemplate.of(checkpoint, self._prompt, now=created(record))
        self._definition = _definition(self._prompt, self._chat)
        self._limit = prompt_limit(record.spec, checkpoint)
        self._why = _why(checkpoint, self._params.max_new_tokens)
        self.num_samples = record.spec.generation.n

    def tokens(self, batch: pa.RecordBatch) -> list[Tokens | RowError]:
        return self._for_adapters(batch, self._encoded(self._texts(self._rows(batch))))

    def _encoded(self, texts: Sequence[Rendered | RowError]) -> list[Tokens | RowError]:
        good = [text.text for text in texts if isinstance(text, Rendered)]
        # a chat template writes the special tokens itself
        encoded = iter(
            self._tokenizer.encode(
                good,
                special_tokens=self._chat is None,
                limit=self._limit,
                truncate=self._prompt.truncate,
                why=f"{self._why}; shorten it, or set prompt.truncate",
            )
        )
        return [require_tokens(next(encoded)) if isinstance(text, Rendered) else text for text in texts]

    def _for_adapters(self, batch: pa.RecordBatch, prepared: Sequence[Tokens | RowError]) -> list[Tokens | RowError]:
        """The tokens with the name of each row's adapter."""
        pairs = zip(self._adapters_of(batch), prepared, strict=True)
        return [
            adapter if isinstance(adapter, RowError) else _with_adapter(tokens, adapter) for adapter, tokens in pairs
        ]

    def request(self, id: int, tokens: Tokens, row: int, sample: int) -> Request:
        return GenerationRequest(
            id=id, prompt_ids=tokens.ids, row=row, sample=sample, adapter=tokens.adapter, params=self._params
        )

    def _adapters_of(self, batch: pa.RecordBatch) -> Sequence[str | RowError | None]:
        """The adapter each row names, None for the base model."""
        column = self._adapter_column
        if column is None:
            return [None] * batch.num_rows
        return [or_error(self._adapter, column, value) for value in cells(column, batch[column])]

    def _adapter(self, column: str, value: Any) -> str | None:
        name = None if value in (None, "") else text_of(column, value)
        if name is not None and name not in self._adapters:
            raise RowError(reason=unknown_adapter(name, self._adapters))
        return name

    def _rows(self, batch: pa.RecordBatch) -> list[dict[str, Any]]:
        """The cells of each row that its prompt is made of, by column."""
        names = set(self._template.columns(batch.schema.names) if self._template else ())
        names |= {name for name in (self._prompt.messages, self._prompt.tools) if isinstance(name, str)}
        return read_rows(batch, sorted(names))

    def _texts(
        self, rows: Sequence[dict[str, Any]], num_images: Sequence[int] | None = None
    ) -> list[Rendered | RowError]:
        """The prompt of each row as it is tokenized; bad cells, and what cannot be rendered, are RowErrors."""
        counts = [None] * len(rows) if num_images is None else num_images
        bad = [next((value for value in row.values() if isinstance(value, RowError)), None) for row in rows]
        asked = [(row, count) for row, count, error in zip(rows, counts, bad, strict=True) if error is None]
        found = iter(renderer.render(self._definition, asked))
        texts = [next(found) if error is None else error for error in bad]
        return [row_error(text) if isinstance(text, Failed) else text for text in texts]


def prompt_limit(spec: JobSpec, checkpoint: Checkpoint) -> int:
    """The longest prompt, in tokens. Raises InvalidValueError when max_new_tokens fills the context window."""
    wanted, context_window = spec.generation.max_new_tokens, checkpoint.context_window
    if checkpoint.is_encoder_decoder:
        # the output has positions of its own, and begins behind up to two tokens that are given
        room = checkpoint.output_context_window - 2
        _require_room(wanted, room + 1, f"the model's decoder has room for {room} tokens")
        return context_window
    _require_room(wanted, context_window, f"the model's context window is {context_window} tokens, prompt included")
    return context_window - wanted


def _require_room(wanted: int, room: int, reason: str) -> None:
    if wanted >= room:
        raise InvalidValueError(key="generation.max_new_tokens", value=wanted, reason=reason)


def _why(checkpoint: Checkpoint, max_new_tokens: int) -> str:
    """The end of the sentence that refuses a long prompt."""
    if checkpoint.is_encoder_decoder:
        return " into the model's encoder"
    return f" beside max_new_tokens {max_new_tokens} in the model's {checkpoint.context_window}"


def _definition(prompt: PromptSpec, chat: ChatTemplate | None) -> bytes:
    """What the rendering process makes of a row."""
    return definition_of(
        "dialogue",
        template=prompt.template,
        chat=None if chat is None else chat.parts,
        messages=prompt.messages,
        tools=prompt.tools,
        system=prompt.system,
    )


def created(record: JobRecord) -> datetime:
    """When the job was submitted: what chat templates take for the present."""
    try:
        return datetime.fromisoformat(record.created)
    except ValueError:
        return datetime.fromtimestamp(0, UTC)


def _with_adapter(tokens: Tokens | RowError, adapter: str | None) -> Tokens | RowError:
    return tokens if adapter is None or isinstance(tokens, RowError) else replace(tokens, adapter=adapter)
