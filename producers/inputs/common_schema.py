"""One schema for files whose schemas differ without harm, and a sentence where they differ with it."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

import pyarrow as pa

from parquetry.producers.inputs.footers import FileFacts
from parquetry.schemas.errors import MixedSchemasError, UnreadableFileError
from parquetry.workers.reading.text_types import joined, settled
from parquetry.workers.reading.widening import widened, without_views

_PANDAS = b"pandas"
_MAX_NAMED = 5


def column_names(facts: Sequence[FileFacts]) -> tuple[str, ...]:
    """Every column that some file has, in the order they appear, hive partition columns last."""
    own = dict.fromkeys(name for fact in facts for name in fact.schema.names if name in fact.own_columns)
    return tuple(own | dict.fromkeys(name for fact in facts for name in fact.schema.names))


def common_schema(facts: Sequence[FileFacts], names: Sequence[str], needed: Collection[str]) -> pa.Schema:
    """The columns `names` with types that hold the values of every file; a file that lacks one gives nulls.

    Raises MixedSchemasError where types are of different kinds or a file lacks a column of `needed`, and
    UnreadableFileError for a name that two columns of a file share.
    """
    files = [fact for fact in facts if fact.num_rows] or list(facts)[:1]
    _require_single(files, names)
    columns = [_Column(name) for name in names]
    problems: dict[str, list[str]] = {}
    for fact in files:
        fields = {field.name: field for field in fact.schema}
        for column in columns:
            problem = column.add(fact, fields.get(column.name), is_needed=column.name in needed)
            if problem is not None:
                problems.setdefault(fact.file.path, []).append(problem)
    if problems:
        raise MixedSchemasError(differences=_describe(problems))
    metadata = _pandas_metadata(files[0].schema.metadata or {}, set(names))
    return pa.schema([column.field for column in columns], metadata=metadata)


class _Column:
    """One column, file by file."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._metadata: dict[bytes, bytes] | None = None
        #: of text files, and of Parquet files; joined by different rules
        self._text: pa.DataType = pa.null()
        self._typed: pa.DataType | None = pa.null()
        self._first: FileFacts | None = None

    @property
    def kind(self) -> pa.DataType | None:
        """The type that holds what was added, null where that is nothing; None where there is no such type."""
        text = self._text if pa.types.is_null(self._text) else settled(self._text)
        return None if self._typed is None else widened(text, self._typed)

    @property
    def field(self) -> pa.Field:
        kind = self.kind
        # a column without a value in any file is text, as one of a text file is
        kind = pa.string() if kind is None or pa.types.is_null(kind) else kind
        return pa.field(self.name, without_views(kind), metadata=self._metadata)

    def add(self, fact: FileFacts, field: pa.Field | None, *, is_needed: bool) -> str | None:
        """Take another file's column in; returns how it differs with harm, and what to do."""
        if field is None:
            lacking = f"it lacks column {self.name!r}, which the job needs; name only files that have it in input.path"
            return lacking if is_needed else None
        text, typed, known = self._text, self._typed, self.kind
        if self._first is None:
            self._first, self._metadata = fact, field.metadata
        if fact.is_text and self.name in fact.own_columns:
            self._text = joined(text, field.type)
        else:
            self._typed = widened(typed, field.type)
        if self.kind is not None:
            return None
        self._text, self._typed = text, typed
        other = f"and {known} in {self._first.file.path}"
        return f"column {self.name!r} is {field.type} here {other}; write one type, or leave it out with input.columns"


def _describe(problems: dict[str, list[str]]) -> str:
    named = [f"{path}: {', '.join(texts[:_MAX_NAMED])}" for path, texts in list(problems.items())[:_MAX_NAMED]]
    rest = len(problems) - len(named)
    return "; ".join(named) + (f"; and {rest} more files" if rest > 0 else "")


def _require_single(files: Sequence[FileFacts], names: Sequence[str]) -> None:
    for fact in files:
        twice = next((name for name in names if name in fact.repeated), None)
        if twice is not None:
            reason = f"it has more than one column named {twice!r}; rename one, or list others in input.columns"
            raise UnreadableFileError(path=fact.file.path, reason=reason)


def _pandas_metadata(metadata: dict[bytes, bytes], names: set[str]) -> dict[bytes, bytes] | None:
    """What pandas wrote of the columns that are read: which of them is the index, above all."""
    try:
        found: dict[str, Any] = json.loads(metadata.get(_PANDAS, b""))
        # a range has no column, and its length is not that of a part
        index = [name for name in found["index_columns"] if isinstance(name, str) and name in names]
        columns = [column for column in found["columns"] if (column.get("field_name") or column["name"]) in names]
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return {_PANDAS: json.dumps({**found, "index_columns": index, "columns": columns}).encode()}
