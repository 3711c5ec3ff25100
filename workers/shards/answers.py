"""Results to output columns: what each task writes about a row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from parquetry.schemas.errors import InvalidValueError
from parquetry.schemas.spec.columns import task_fields
from parquetry.schemas.spec.job import JobSpec
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.preparation.tokenization import Tokenizer
from parquetry.workers.request import Encoding
from parquetry.workers.shards.entities import EntityGrouping
from parquetry.workers.shards.pending_rows import Outcome


class Answers(ABC):
    """Builds the task's output columns from rows whose results are all there."""

    #: whether answers point into the tokens of a row
    needs_tokens = False
    #: what provenance tells of them
    facts: Mapping[str, str] = MappingProxyType({})

    def __init__(self, spec: JobSpec, *, embedding_dim: int | None = None, per_token: bool = False) -> None:
        self._spec = spec
        self.fields = task_fields(spec, embedding_dim=embedding_dim, per_token=per_token)

    @abstractmethod
    def columns(self, rows: Sequence[Outcome]) -> list[pa.Array]:
        """One array for each of `fields`; null in error rows unless the column says what happened."""


class EmbeddingAnswers(Answers):
    """One vector a row."""

    def columns(self, rows: Sequence[Outcome]) -> list[pa.Array]:
        kind = self.fields[0].type
        matrix, errors = _matrix(rows, kind.list_size)
        values = pa.array(matrix.astype(kind.value_type.to_pandas_dtype(), copy=False).reshape(-1))
        return [pa.FixedSizeListArray.from_arrays(values, type=kind, mask=pa.array(errors))]


class RequestEmbeddings(Answers):
    """The vectors of a row's texts, and how many tokens they have."""

    def columns(self, rows: Sequence[Outcome]) -> list[pa.Array]:
        kind = self.fields[0].type
        good = [row for row in rows if row.error is None]
        vectors = [result.values for row in good for result in row.results if isinstance(result, Encoding)]
        value = kind.value_type.value_type
        values = np.concatenate(vectors) if vectors else np.empty(0, np.float32)
        flat = pa.array(values.astype(value.to_pandas_dtype(), copy=False), value)
        lengths = [0 if row.error is not None else len(row.results) for row in rows]
        offsets = pa.array(np.concatenate(([0], np.cumsum(lengths))), pa.int32())
        errors = pa.array([row.error is not None for row in rows], pa.bool_())
        fixed = pa.FixedSizeListArray.from_arrays(flat, type=kind.value_type)
        counts = pa.array([row.num_prompt_tokens for row in rows], pa.int32())
        return [pa.ListArray.from_arrays(offsets, fixed, type=kind, mask=errors), counts]


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
