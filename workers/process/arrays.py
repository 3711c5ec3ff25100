"""Arrays of any length as list columns of an Arrow batch, and batches as the payload of a frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from parquetry.workers.process.wire import WireError


def list_array(rows: Sequence[np.ndarray | None], dtype: type) -> pa.ListArray:
    """One-dimensional arrays as one list column; None becomes null."""
    present = [row for row in rows if row is not None]
    if not present:
        return pa.nulls(len(rows), pa.list_(pa.from_numpy_dtype(dtype)))
    lengths = [0 if row is None else len(row) for row in rows]
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    values: np.ndarray = np.concatenate(present).astype(dtype, copy=False)
    mask = pa.array([row is None for row in rows], pa.bool_()) if len(present) < len(rows) else None
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values), mask=mask)


def optional_lists(batch: pa.RecordBatch, name: str) -> list[np.ndarray | None]:
    """The rows of a list column as views of its buffer, None where it is null."""
    column = batch[name]
    if column.null_count == len(column):
        return [None] * len(column)
    values: np.ndarray = column.values.to_numpy()
    offsets = column.offsets.to_pylist()
    nulls = column.is_null().to_pylist()
    bounds = zip(offsets[:-1], offsets[1:], nulls, strict=True)
    return [None if null else values[start:stop] for start, stop, null in bounds]


def lists(batch: pa.RecordBatch, name: str) -> list[np.ndarray]:
    """The rows of a list column that has no null. Raises WireError."""
    found = [row for row in optional_lists(batch, name) if row is not None]
    if len(found) < batch.num_rows:
        raise WireError(f"a frame has no {name} for some of its rows")
    return found


def write(columns: dict[str, pa.Array], *more: pa.RecordBatch) -> bytes:
    """One Arrow stream after the other, each of one batch."""
    sink = pa.BufferOutputStream()
    for batch in (pa.record_batch(columns), *more):
        with pa.ipc.new_stream(sink, batch.schema) as stream:
            stream.write_batch(batch)
    return sink.getvalue().to_pybytes()


def read(payload: bytes, *, batch: int = 0) -> pa.RecordBatch:
    """The batch of the stream with that number. Raises WireError."""
    source = pa.BufferReader(payload)
    try:
        for _ in range(batch + 1):
            with pa.ipc.open_stream(source) as stream:
                found = stream.read_next_batch()
                # to the end of this stream, where the next one begins
                if next(iter(stream), None) is not None:
                    raise WireError("a frame's payload has more than one batch where one belongs")
        found.validate(full=True)
    except (pa.ArrowInvalid, StopIteration, OSError) as error:
        raise WireError(f"a frame's payload is not an Arrow batch: {error}") from error
    return found
