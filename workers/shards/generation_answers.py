"""Generated tokens to output columns: texts, and the parts that they are split into."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat

import pyarrow as pa

from parquetry.schemas.spec.job import JobSpec
from parquetry.schemas.spec.json_columns import json_fields
from parquetry.workers.preparation.tokenization import Tokenizer
from parquetry.workers.replies.reply import Reply
from parquetry.workers.replies.splitter import Splitter
from parquetry.workers.request import Completion
from parquetry.workers.shards.answers import Answers
from parquetry.workers.shards.json_objects import property_cells, read_object
from parquetry.workers.shards.pending_rows import Outcome
from parquetry.workers.stops import cut_at_stop


class GenerationAnswers(Answers):
    """Decoded text, or one list of texts where a row has several samples."""

    def __init__(self, spec: JobSpec, tokenizer: Tokenizer, splitter: Splitter | None = None) -> None:
        super().__init__(spec)
        self._splitter = splitter
        self.facts = {"reply_splitter": splitter.name} if splitter else {}
        self._tokenizer = tokenizer
        self._generation = spec.generation
        # a row that is reused says anew at which strings its output ends
        self.needs_tokens = spec.reads_requests

    def columns(self, rows: Sequence[Outcome]) -> list[pa.Array]:
        full = self._decode(rows)
        decoded = [cut_at_stop(text, stop) for text, stop in zip(full, self._stops(rows), strict=True)]
        texts = iter(decoded)
        values = {
            "output": [self._each(row, lambda _: next(texts)) for row in rows],
            "finish_reason": [self._reasons(row) for row in rows],
            "prompt_tokens": [row.num_prompt_tokens for row in rows],
            "output_tokens": [self._each(row, lambda result: len(result.output_ids)) for row in rows],
            "logprobs": [self._each(row, _logprobs) for row in rows],
            "tokens": [self._each(row, self._tokens) for row in rows],
            **(self._split(rows, full, decoded) if self._splitter else {}),
        }
        own = [pa.array(values[field.name], field.type) for field in self.fields if field.name in values]
        return own + self._unpacked(rows, decoded)

    def _tokens(self, result: Completion) -> list[str] | None:
        """The text of each token whose log-probability is told."""
        if result.logprobs is None:
            return None
        return self._tokenizer.decode([[token] for token in result.output_ids], skip_special_tokens=False)

    def _unpacked(self, rows: Sequence[Outcome], texts: Sequence[str]) -> list[pa.Array]:
        """A column for each property of the JSON schema; null where the output ended before its object did."""
        if not self._generation.json_columns:
            return []
        objects = [read_object(text) for text in texts]
        columns = []
        for field in json_fields(self._generation.json_schema or {}):
            values = self._in_turn(rows, property_cells(objects, field))
            columns.append(pa.array(values, field.type if self._generation.n == 1 else pa.list_(field.type)))
        return columns

    def _in_turn(self, rows: Sequence[Outcome], cells: Iterable[object]) -> list[object]:
        """The cells of a column, one for each sample in turn, as `_each` gives them."""
        left = iter(cells)
        return [self._each(row, lambda _: next(left)) for row in rows]

    def _decode(self, rows: Sequence[Outcome], *, skip: bool | None = None) -> list[str]:
        skip = self._generation.skip_special_tokens if skip is None else skip
        ids = [result.output_ids for row in rows if row.error is None for result in row.completions]
        return self._tokenizer.decode(ids, skip_special_tokens=skip)

    def _split(self, rows: Sequence[Outcome], full: Sequence[str], texts: Sequence[str]) -> dict[str, list[object]]:
        """The columns of the parts of each output; `texts` are the outputs, `full` the same before they were cut."""
        replies = self._replies(rows, full, texts)
        # special tokens aside both are the same, and their spaces may not be
        answers = [text if reply.is_whole else reply.answer for reply, text in zip(replies, texts, strict=True)]
        calls = [[call._asdict() for call in reply.tool_calls] or None for reply in replies]
        return {
            "answer": self._in_turn(rows, answers),
            "reasoning": self._in_turn(rows, [reply.reasoning for reply in replies]),
            "tool_calls": self._in_turn(rows, calls),
        }

    def _replies(self, rows: Sequence[Outcome], full: Sequence[str], texts: Sequence[str]) -> list[Reply]:
        assert self._splitter is not None
        # behind a stop string there is no token more, so a text with its special tokens ends as one without
        marked = zip(self._decode(rows, skip=False), full, texts, strict=True)
        cut = [text.removesuffix(whole[len(kept) :]) for text, whole, kept in marked]
        tools = [has for row in rows if row.error is None for has in repeat(self._has_tools(row), len(row.results))]
        return [self._splitter.split(text, has_tools=has) for text, has in zip(cut, tools, strict=True)]

    def _has_tools(self, row: Outcome) -> bool:
        if row.tokens is None or row.tokens.asked is None:
            return self._spec.prompt.tools is not None
        return row.tokens.asked.has_tools

    def _stops(self, rows: Sequence[Outcome]) -> Iterator[Sequence[str]]:
        """The strings at which each output ends: the row's own, or the job's."""
        for row in rows:
            params = None if row.tokens is None or row.tokens.asked is None else row.tokens.asked.params
            stop = self._generation.stop if params is None else params.stop
            yield from repeat(stop, 0 if row.error is not None else len(row.completions))

    def _reasons(self, row: Outcome) -> object:
        if row.error is None:
            return self._each(row, lambda result: result.finish_reason)
        count = self._spec.generation.n
        return "error" if count == 1 else ["error"] * count

    def _each(self, row: Outcome, value: Callable[[Completion], object]) -> object:
        """The value of the only sample, or a list with that of every sample; None in an error row."""
        if row.error is not None:
            return None
        values = [value(result) for result in row.completions]
        return values[0] if self._spec.generation.n == 1 else values


def _logprobs(result: Completion) -> list[float] | None:
    return None if result.logprobs is None else result.logprobs.tolist()
