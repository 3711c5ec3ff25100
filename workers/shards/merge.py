"""A retry of rows: the error rows of a part computed anew, and put among its other rows."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from parquetry.schemas.errors import PartInvalidError, ShardFailedError
from parquetry.schemas.manifest import PartRecord
from parquetry.schemas.number_ranges import ranges
from parquetry.schemas.spec.columns import ERROR, REPAIRED_CELLS, ROW, ROW_ROUNDS
from parquetry.schemas.spec.row_retry import RowRetry
from parquetry.workers.reading.input_rows import InputRows
from parquetry.workers.shards.provenance import from_metadata
from parquetry.workers.shards.shard_progress import RowCounts
from parquetry.workers.shards.writer import PartWriter

_BATCH_ROWS = 8192
#: what differs between any two attempts, and tells nothing of how rows were computed
_OF_EVERY_ATTEMPT = ("job", "shard", "fence", "input", "task")


class Merge:
    """The part of a shard as it is, open for reading until `close`, and which of its rows are computed anew: those
    with an error."""

    def __init__(self, file: BinaryIO, part: PartRecord, retry: RowRetry, first_row: int) -> None:
        """`file` holds `part`, which was verified; its rows begin at row `first_row` of the job's input."""
        self._parquet = pq.ParquetFile(file, pre_buffer=False)
        self.part, self.retry, self._first_row = part, retry, first_row
        self.keys = from_metadata(self._parquet.metadata.metadata)
        #: positions of these rows in the job's input, ascending
        self.numbers: Sequence[int] = [row for batch in self._batches([ROW.name, ERROR.name]) for row in _errors(batch)]

    def rows_of(self, rows: Iterable[InputRows]) -> Iterator[InputRows]:
        """Of the rows of the whole shard, in order, those that are computed anew."""
        wanted = np.asarray(self.numbers, np.int64)
        start = self._first_row
        for some in rows:
            mine = wanted[(wanted >= start) & (wanted < start + some.num_rows)] - start
            start += some.num_rows
            if len(mine):
                yield some.take(mine.tolist())

    def writer(self, attempt: Path, schema: pa.Schema, provenance: Mapping[str, str]) -> MergingWriter:
        """Writes the merged part. Raises ShardFailedError where its settings give other columns than the part has."""
        own = self._parquet.schema_arrow
        if own.remove_metadata() != schema.remove_metadata():
            reason = f"with the settings of the retry its columns would be {_text(schema)}; they are {_text(own)}"
            raise ShardFailedError(shard=self.part.shard, reason=reason)
        return MergingWriter(self, attempt, schema, provenance)

    def base(self) -> Iterator[pa.RecordBatch]:
        """The part's rows as they are."""
        return self._batches(None)

    def _batches(self, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
        return self._parquet.iter_batches(_BATCH_ROWS, columns=columns, use_threads=False)

    def close(self) -> None:
        """Read no more."""
        self._parquet.close()


class MergingWriter:
    """Used like a PartWriter; takes the rows that were computed anew in order, and writes every row of the part."""

    def __init__(self, merge: Merge, attempt: Path, schema: pa.Schema, provenance: Mapping[str, str]) -> None:
        self._merge, self._schema, self._provenance = merge, schema, provenance
        made = {key: merge.keys[key] for key in provenance if key in merge.keys}
        self._writer = PartWriter(attempt, schema, {**made, "fence": provenance["fence"]})
        self._base = merge.base()
        #: the next rows of the part, None at its end
        self._next = next(self._base, None)
        self._new: deque[pa.RecordBatch] = deque()

    def write(self, batch: pa.RecordBatch) -> None:
        """Take rows that were computed anew; as much of the part is written as they make complete."""
        self._new.append(batch)
        # a batch of the part may be as large as memory allows two of, so no more are held than it takes
        while self._next is not None and len(_errors(self._next)) <= sum(new.num_rows for new in self._new):
            self._write_next()

    def _write_next(self) -> None:
        assert self._next is not None
        rows = _errors(self._next)
        merged = self._replaced(self._next, rows) if rows else self._next
        self._writer.write(pa.RecordBatch.from_arrays(merged.columns, schema=self._schema))
        self._next = next(self._base, None)

    def _replaced(self, batch: pa.RecordBatch, rows: list[int]) -> pa.RecordBatch:
        """The batch with the next `rows` in the place of its own; columns that come from the input stay."""
        new = self._take(len(rows))
        if new[ROW.name].to_pylist() != rows:
            raise PartInvalidError(path=self._merge.part.path, shard=self._merge.part.shard, reason="rows are missing")
        order = np.arange(batch.num_rows)
        failed = pc.is_valid(batch[ERROR.name]).to_numpy(zero_copy_only=False)
        order[failed] = batch.num_rows + np.arange(len(rows))
        first = batch.schema.get_field_index(ROW.name) + 1
        columns = [
            column if index < first else _chosen(column, new.column(index), order)
            for index, column in enumerate(batch.columns)
        ]
        return pa.RecordBatch.from_arrays(columns, schema=batch.schema)

    def _take(self, count: int) -> pa.Table:
        """The first rows of those that were computed anew."""
        found: list[pa.RecordBatch] = []
        while count:
            batch = self._new.popleft()
            found.append(batch.slice(0, count))
            if batch.num_rows > count:
                self._new.appendleft(batch.slice(count))
            count -= found[-1].num_rows
        return pa.Table.from_batches(found)

    def close(
        self,
        counts: RowCounts,
        repairs: Mapping[str, int] = MappingProxyType({}),
        error_kinds: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Write the rest and the footer: `counts` and kinds are of the rows that were computed anew."""
        while self._next is not None:
            self._write_next()
        if self._new:
            raise PartInvalidError(path=self._merge.part.path, shard=self._merge.part.shard, reason="it lacks rows")
        part, keys = self._merge.part, self._merge.keys
        merged = RowCounts(
            rows=part.rows,
            error_rows=counts.error_rows,
            # what was computed for the part in all
            prompt_tokens=part.prompt_tokens + counts.prompt_tokens,
            output_tokens=part.output_tokens + counts.output_tokens,
        )
        rounds = [*json.loads(keys.get(ROW_ROUNDS, "[]")), self._round(counts)]
        self._writer.close(merged, json.loads(keys.get(REPAIRED_CELLS, "{}")), error_kinds, {ROW_ROUNDS: _json(rounds)})

    def _round(self, counts: RowCounts) -> dict[str, object]:
        """What the footer tells of this retry: its rows, and what made them where that is not what made the others."""
        retry, keys = self._merge.retry, self._merge.keys
        other = {key: value for key, value in self._provenance.items() if keys.get(key) != value}
        return {
            "round": retry.round,
            "fence": int(self._provenance["fence"]),
            "rows": ranges(self._merge.numbers),
            "changes": retry.changes,
            "provenance": {key: value for key, value in other.items() if key not in _OF_EVERY_ATTEMPT},
            "prompt_tokens": counts.prompt_tokens,
            "output_tokens": counts.output_tokens,
            "errors_before": self._merge.part.errors,
        }

    def abort(self) -> None:
        """Leave a file without a footer, which nothing takes for a part."""
        self._writer.abort()


def _errors(batch: pa.RecordBatch) -> list[int]:
    """Positions in the job's input of the rows with an error."""
    found = batch[ROW.name].filter(pc.is_valid(batch[ERROR.name])).to_pylist()
    return [int(row) for row in found]


def _chosen(old: pa.Array, new: pa.ChunkedArray, order: np.ndarray) -> pa.Array:
    """Both behind each other, in another order."""
    return pa.concat_arrays([old, *new.chunks]).take(pa.array(order))


def _text(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema)


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
