"""Rows to requests: what each task makes of a batch of input rows before an engine sees them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from schemas.errors import InvalidValueError, RowError
from schemas.job import GenerationSpec, JobSpec
from schemas.manifest import JobRecord
from workers.cells import cells, text_of
from workers.chat import ChatTemplate, read_messages, user_message, with_system
from workers.checkpoint import Checkpoint
from workers.grammar.grammar import Grammar
from workers.loading.adapters import unknown_adapter
from workers.pooling import Pooling
from workers.prompts import Template
from workers.request import EncodeRequest, GenerationRequest, Request, SamplingParams
from workers.tokenization import Tokenizer, Tokens


class Preparation(ABC):
    """Turns input rows into token ids, and token ids into requests."""

    #: requests made of one row
    num_samples = 1
    #: rows prepared at once; None takes them as they are read
    rows_at_once: int | None = None

    @abstractmethod
    def tokens(self, batch: pa.RecordBatch) -> list[Tokens | RowError]:
        """Token ids of each row, or what is wrong with it."""

    def complete(self, prepared: list[Tokens | RowError]) -> list[Tokens | RowError]:
        """The same rows with what has to be fetched for them. May block, and raise StorageError."""
        return prepared

    @abstractmethod
    def request(self, id: int, tokens: Tokens, row: int, sample: int) -> Request:
        """One request of a row."""

    @classmethod
    def of(cls, record: JobRecord, checkpoint: Checkpoint, tokenizer: Tokenizer) -> Preparation:
        """The preparation of the job's task. Raises BadInputErrors for a spec that does not fit the model."""
        if record.spec.task == "generate" and record.spec.prompt.image is not None:
            from workers.vision.preparation import ImagePreparation

            return ImagePreparation(record, checkpoint, tokenizer)
        if record.spec.task == "generate":
            return PromptPreparation(record, checkpoint, tokenizer)
        return TextPreparation(record.spec, checkpoint, tokenizer)


class PromptPreparation(Preparation):
    """Prompts to continue: a rendered template or a column of messages, through the chat template or plain."""

    def __init__(self, record: JobRecord, checkpoint: Checkpoint, tokenizer: Tokenizer) -> None:
        self._prompt = record.spec.prompt
        self._adapter_column = record.spec.model.adapter_column
        self._adapters = record.spec.model.adapters or {}
        self._params = sampling_params(record.spec.generation)
        self._tokenizer = tokenizer
        self._template = None if self._prompt.template is None else Template.parse(self._prompt.template)
        self._chat = ChatTemplate.of(checkpoint, self._prompt, now=_created(record))
        self._limit = prompt_limit(record.spec, checkpoint)
        self._why = _why(checkpoint, self._params.max_new_tokens)
        self.num_samples = record.spec.generation.n

    def tokens(self, batch: pa.RecordBatch) -> list[Tokens | RowError]:
        texts = [or_error(self._text, row) for row in self._rows(batch)]
        return self._for_adapters(batch, self._encoded(texts))

    def _encoded(self, texts: Sequence[str | RowError]) -> list[Tokens | RowError]:
        good = [text for text in texts if isinstance(text, str)]
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
        return [_require_tokens(next(encoded)) if isinstance(text, str) else text for text in texts]

    def _for_adapters(self, batch: pa.RecordBatch, prepared: list[Tokens | RowError]) -> list[Tokens | RowError]:
        """The same with the adapter that each row names."""
        pairs = zip(self._adapters_of(batch), prepared, strict=True)
        return [
            adapter if isinstance(adapter, RowError) else _with_adapter(tokens, adapter) for adapter, tokens in pairs
        ]

    def request(self, id: int, tokens: Tokens, row: int, sample: int) -> Request:
        return GenerationRequest(
            id=id, prompt_ids=tokens.ids, row=row, sample=sample, adapter=tokens.adapter, params=self._params
        )

    def _adapters_of(self, batch: pa.RecordBatch) -> list[str | RowError | None]:
        """The name each row gives, None for the model as it is."""
        if self._adapter_column is None:
            return [None] * batch.num_rows
        return [or_error(self._adapter, value) for value in cells(self._adapter_column, batch[self._adapter_column])]

    def _adapter(self, value: Any) -> str | None:
        name = None if value in (None, "") else text_of(self._adapter_column, value)
        if name is not None and name not in self._adapters:
            raise RowError(reason=unknown_adapter(name, self._adapters))
        return name

    def _rows(self, batch: pa.RecordBatch) -> list[dict[str, Any]]:
        names = sorted(self._template.variables) if self._template else [self._prompt.messages]
        columns = [cells(name, batch[name]) for name in names]
        if not columns:
            return [{} for _ in range(batch.num_rows)]
        return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]

    def _text(self, row: dict[str, Any]) -> str:
        require_good(row)
        if self._template is None:
            messages = read_messages(self._prompt.messages, row[self._prompt.messages])
            return self._chat.render(with_system(messages, self._prompt.system))
        text = self._template.render(row)
        return text if self._chat is None else self._chat.render(user_message(text, self._prompt.system))


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
        return [value if isinstance(value, RowError) else _require_tokens(next(encoded)) for value in inputs]


def embedding_prompt(spec: JobSpec, checkpoint: Checkpoint) -> str:
    """What goes before every text. Raises InvalidValueError for a prompt that the model does not have."""
    return (checkpoint.pooling or Pooling({}, normalize=False)).prompt(spec.embed.prompt)


def sampling_params(generation: GenerationSpec) -> SamplingParams:
    """The spec's generation section as engines take it. Raises GrammarError and MissingPackageError."""
    grammar = Grammar.of(generation)
    if grammar is not None:
        grammar.check()
    return SamplingParams(
        max_new_tokens=generation.max_new_tokens,
        temperature=generation.temperature,
        top_p=generation.top_p,
        top_k=generation.top_k,
        seed=generation.seed,
        stop=tuple(generation.stop),
        logprobs=generation.logprobs,
        grammar=None if grammar is None else grammar.text,
    )


def prompt_limit(spec: JobSpec, checkpoint: Checkpoint) -> int:
    """Tokens a prompt may have. Raises InvalidValueError when max_new_tokens leaves no room for any."""
    wanted, window = spec.generation.max_new_tokens, checkpoint.context_window
    if checkpoint.is_encoder_decoder:
        # the output has positions of its own, and begins behind up to two tokens that are given
        room = checkpoint.output_window - 2
        _require_room(wanted, room + 1, f"the model's decoder has room for {room} tokens")
        return window
    _require_room(wanted, window, f"the model's window is {window} tokens, prompt included")
    return window - wanted


def _require_room(wanted: int, window: int, reason: str) -> None:
    if wanted >= window:
        raise InvalidValueError(key="generation.max_new_tokens", value=wanted, reason=reason)


def _why(checkpoint: Checkpoint, max_new_tokens: int) -> str:
    """The end of the sentence that refuses a long prompt."""
    if checkpoint.is_encoder_decoder:
        return " into the model's encoder"
    return f" beside max_new_tokens {max_new_tokens} in the model's {checkpoint.context_window}"


def _created(record: JobRecord) -> datetime:
    try:
        return datetime.fromisoformat(record.created)
    except ValueError:
        return datetime.fromtimestamp(0, UTC)


def require_good(row: dict[str, Any]) -> None:
    """Raise the RowError of the first cell that is one."""
    bad = next((value for value in row.values() if isinstance(value, RowError)), None)
    if bad is not None:
        raise bad


def or_error(function, *args):
    """What the function returns, or the RowError it raises."""
    try:
        return function(*args)
    except RowError as error:
        return error


def _both(first: str | RowError, second: str | RowError) -> tuple[str, str] | RowError:
    return next((value for value in (first, second) if isinstance(value, RowError)), (first, second))


def _with_adapter(tokens: Tokens | RowError, adapter: str | None) -> Tokens | RowError:
    return tokens if adapter is None or isinstance(tokens, RowError) else replace(tokens, adapter=adapter)


def _require_tokens(tokens: Tokens | RowError) -> Tokens | RowError:
    if isinstance(tokens, Tokens) and not len(tokens.ids):
        return RowError(reason="the text is empty, and the model's tokenizer makes no token of it")
    return tokens
