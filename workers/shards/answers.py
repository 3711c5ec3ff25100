"""Results to output columns: what each task writes about a row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from parquetry.schemas.errors import InvalidValueError
from parquetry.schemas.spec.columns import task_fields
from parquetry.schemas.spec.job import JobSpec
from parquetry.schemas.spec.json_columns import json_fields
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.preparation.tokenization import Tokenizer
from parquetry.workers.request import Completion, Encoding
from parquetry.workers.shards.entities import EntityGrouping
from parquetry.workers.shards.json_objects import property_cells, read_object
from parquetry.workers.shards.pending_rows import Outcome
from parquetry.workers.stops import cut_at_stop


class Answers(ABC):
    """Builds the task's output columns from rows whose results are all there."""

    #: whether answers point into the tokens of a row
    needs_tokens = False

    def __init__(self, spec: JobSpec, *, embedding_dim: int | None = None, per_token: bool = False) -> None:
        self._spec = spec
        self.fields = task_fields(spec, embedding_dim=embedding_dim, per_token=per_token)

    @abstractmethod
    def columns(self, rows: Sequence[Outcome]) -> list[pa.Array]:
        """One array for each of `fields`; null in error rows unless the column says what happened."""

    @classmethod
    def of(cls, spec: JobSpec, checkpoint: Checkpoint, tokenizer: Tokenizer, engine: Mapping[str, str]) -> Answers:
        """The answers of the spec's task; `engine` is what `Engine.describe` returned."""
        if spec.task == "generate":
            return GenerationAnswers(spec, tokenizer)
        if spec.task == "embed":
            return EmbeddingAnswers(spec, embedding_dim=int(engine["embedding_dim"]))
        if spec.task == "score":
            return ScoreAnswers(spec)
        if checkpoint.is_token_classifier:
            return EntityAnswers(spec, checkpoint, tokenizer, int(engine["num_labels"]))
        return ClassificationAnswers(spec, checkpoint, int(engine["num_labels"]))


class GenerationAnswers(Answers):
    """Decoded text, or one list of texts where a row has several samples."""

    def __init__(self, spec: JobSpec, tokenizer: Tokenizer) -> None:
        super().__init__(spec)
        self._tokenizer = tokenizer
        self._generation = spec.generation

    def columns(self, rows: Sequence[Outcome]) -> list[pa.Array]:
        decoded = self._decode(rows)
        texts = iter(decoded)
        values = {
            "output": [self._each(row, lambda _: next(texts)) for row in rows],
            "finish_reason": [self._reasons(row) for row in rows],
            "prompt_tokens": [row.num_prompt_tokens for row in rows],
            "output_tokens": [self._each(row, lambda result: len(result.output_ids)) for row in rows],
            "logprobs": [self._each(row, _logprobs) for row in rows],
        }
        own = [pa.array(values[field.name], field.type) for field in self.fields if field.name in values]
        return own + self._unpacked(rows, decoded)

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

    def _decode(self, rows: Sequence[Outcome]) -> list[str]:
        ids = [result.output_ids for row in rows if row.error is None for result in row.completions]
        texts = self._tokenizer.decode(ids, skip_special_tokens=self._generation.skip_special_tokens)
        return [cut_at_stop(text, self._generation.stop) for text in texts]

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


class EmbeddingAnswers(Answers):
    """One vector a row."""

    def columns(self, rows: Sequence[Outcome]) -> list[pa.Array]:
        kind = self.fields[0].type
        matrix, errors = _matrix(rows, kind.list_size)
        values = pa.array(matrix.astype(kind.value_type.to_pandas_dtype(), copy=False).reshape(-1))
        return [pa.FixedSizeListArray.from_arrays(values, type=kind, mask=pa.array(errors))]


class ScoreAnswers(Answers):
    """One number a pair."""

    def columns(self, rows: Sequence[Outcome]) -> list[pa.Array]:
        scores = [None if row.error is not None else float(_values(row)[0]) for row in rows]
        return [pa.array(scores, self.fields[0].type)]


class ClassificationAnswers(Answers):
    """The best label or labels, and on request every score in the order of the labels."""

    def __init__(self, spec: JobSpec, checkpoint: Checkpoint, num_labels: int) -> None:
        super().__init__(spec)
        self._labels = pa.array(_labels(spec, checkpoint, num_labels), pa.string())
        self._top_k = min(spec.classify.top_k, num_labels)

    def columns(self, rows: Sequence[Outcome]) -> list[pa.Array]:
        scores, errors = _matrix(rows, len(self._labels))
        # a stable sort, so that equal scores keep the order of the labels
        order = np.argsort(-scores, axis=1, kind="stable")[:, : self._top_k]
        columns = {
            "label": self._labels.take(pa.array(order.reshape(-1))),
            "score": pa.array(np.take_along_axis(scores, order, axis=1).reshape(-1)),
            "scores": pa.array(scores.reshape(-1)),
        }
        return [_column(columns[field.name], errors, field.type) for field in self.fields]


class EntityAnswers(Answers):
    """The entities of a text, with where they lie in it."""

    needs_tokens = True

    def __init__(self, spec: JobSpec, checkpoint: Checkpoint, tokenizer: Tokenizer, num_labels: int) -> None:
        super().__init__(spec, per_token=True)
        unknown = tokenizer.id_of(checkpoint.special_tokens.get("unk_token", ""))
        self._grouping = EntityGrouping(_labels(spec, checkpoint, num_labels), tokenizer, unknown)

    def columns(self, rows: Sequence[Outcome]) -> list[pa.Array]:
        # (num_tokens, 2) of a row: number of the best label, and its probability
        found = iter(
            self._grouping.entities(
                [row.tokens for row in rows if row.error is None and row.tokens is not None],
                [_values(row).reshape(-1, 2) for row in rows if row.error is None],
            )
        )
        return [pa.array([None if row.error is not None else next(found) for row in rows], self.fields[0].type)]


def _matrix(rows: Sequence[Outcome], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Values (num_rows, width) float32, zeros in error rows, and (num_rows,) bool, which rows those are."""
    errors = np.array([row.error is not None for row in rows])
    matrix = np.zeros((len(rows), width), np.float32)
    if not errors.all():
        matrix[~errors] = np.concatenate([_values(row) for row in rows if row.error is None]).reshape(-1, width)
    return matrix, errors


def _column(values: pa.Array, errors: np.ndarray, kind: pa.DataType) -> pa.Array:
    """A column of type `kind` from a flat array with the same number of values for each row; null in error rows."""
    if not pa.types.is_list(kind):
        return pc.if_else(pa.array(errors), pa.scalar(None, values.type), values)
    width = len(values) // max(len(errors), 1)
    offsets = pa.array(np.arange(len(errors) + 1, dtype=np.int32) * width)
    return pa.ListArray.from_arrays(offsets, values, type=kind, mask=pa.array(errors))


def _labels(spec: JobSpec, checkpoint: Checkpoint, num_labels: int) -> list[str]:
    """Names of the model's outputs: the spec's, the checkpoint's, or LABEL_0 and so on."""
    named = spec.classify.labels
    if named is not None and len(named) != num_labels:
        reason = f"the model has {num_labels} outputs, so it takes {num_labels} labels"
        raise InvalidValueError(key="classify.labels", value=f"{len(named)} labels", reason=reason)
    labels = named or checkpoint.labels
    return labels if len(labels) == num_labels else [f"LABEL_{index}" for index in range(num_labels)]


def _values(row: Outcome) -> np.ndarray:
    result = row.results[0]
    assert isinstance(result, Encoding)
    return result.values
