"""One seal as bytes: finished rows of a running attempt, whose they are, and a digest over all of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa

from parquetry.schemas.errors import RetryableError
from parquetry.workers.request import Completion, Encoding, Result
from parquetry.workers.shards.pending_rows import Outcome

#: a row's position in the job's input, and what became of it
FinishedRow = tuple[int, Outcome]
_DIGEST_BYTES = hashlib.sha256().digest_size
_IDENTITY = b"identity"
#: the samples of a row follow each other
_ROW_FIELDS = [pa.field("row", pa.int64(), nullable=False), pa.field("prompt_tokens", pa.int32())]
_COMPLETIONS = [
    pa.field("output_ids", pa.list_(pa.int32())),
    pa.field("finish_reason", pa.string()),
    pa.field("logprobs", pa.list_(pa.float32())),
]
_ENCODINGS = [pa.field("values", pa.list_(pa.float32()))]


class SealInvalidError(RetryableError):
    """The seal {path} is passed over, and its rows are computed again: {reason}."""


def encode(rows: Sequence[FinishedRow], identity: str) -> bytes:
    """The rows as one file. All have their results, of one kind, and none has an error."""
    pairs = [(row, outcome, result) for row, outcome in rows for result in outcome.results if result is not None]
    results = [result for _, _, result in pairs]
    columns = [
        pa.array([row for row, _, _ in pairs], pa.int64()),
        pa.array([outcome.num_prompt_tokens for _, outcome, _ in pairs], pa.int32()),
        *_result_columns(results),
    ]
    fields = [*_ROW_FIELDS, *(_ENCODINGS if isinstance(results[0], Encoding) else _COMPLETIONS)]
    schema = pa.schema(fields, metadata={_IDENTITY: identity})
    sink = pa.BufferOutputStream()
    # token ids shrink to half; numbers of vectors don't
    options = pa.ipc.IpcWriteOptions(compression=None if isinstance(results[0], Encoding) else "lz4")
    with pa.ipc.new_stream(sink, schema, options=options) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
    body = sink.getvalue().to_pybytes()
    return body + hashlib.sha256(body).digest()


def _result_columns(results: Sequence[Result]) -> list[pa.Array]:
    completions = [result for result in results if isinstance(result, Completion)]
    if not completions:
        return [_lists([result.values for result in results if isinstance(result, Encoding)], pa.float32())]
    return [
        _lists([result.output_ids for result in completions], pa.int32()),
        pa.array([result.finish_reason for result in completions], pa.string()),
        _lists([result.logprobs for result in completions], pa.float32()),
    ]


def _lists(arrays: Sequence[np.ndarray | None], kind: pa.DataType) -> pa.ListArray:
    """One list a result, null for None."""
    there = [array for array in arrays if array is not None]
    lengths = [0 if array is None else len(array) for array in arrays]
    values = np.concatenate(there) if there else np.empty(0)
    offsets = pa.array(np.concatenate(([0], np.cumsum(lengths, dtype=np.int64))), pa.int32())
    mask = pa.array([array is None for array in arrays], pa.bool_())
    return pa.ListArray.from_arrays(offsets, pa.array(values.astype(kind.to_pandas_dtype(), copy=False)), mask=mask)


def decode(data: bytes, identity: str, *, path: object, num_samples: int | None = 1) -> dict[int, Outcome]:
    """The rows of a seal by their position in the job's input, each with `num_samples` results, or with all its own.

    Raises SealInvalidError for bytes that are not those that were written, and for a seal of another identity.
    """
    batch, found = _read(data, path)
    if found != identity:
        raise SealInvalidError(path=path, reason="it is of another job, another input or another engine")
    rows = batch["row"].to_numpy()
    # the results of a row follow each other, and were sealed when all of them were there
    starts = np.flatnonzero(np.diff(rows, prepend=-1)).tolist()
    spans = list(pairwise([*starts, len(rows)]))
    odd = num_samples is not None and any(stop - start != num_samples for start, stop in spans)
    if not starts or odd or len(set(rows[starts].tolist())) < len(starts):
        raise SealInvalidError(path=path, reason=f"it does not hold {num_samples or 'all'} results of each row")
    prompts, results = batch["prompt_tokens"].to_pylist(), _results(batch)
    return {int(rows[start]): Outcome(prompts[start], results[start:stop]) for start, stop in spans}


def _read(data: bytes, path: object) -> tuple[pa.RecordBatch, str]:
    """What was written, with the identity it was written for."""
    body, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        raise SealInvalidError(path=path, reason="its digest is not that of its bytes; it is damaged or cut short")
    try:
        with pa.ipc.open_stream(body) as reader:
            batch = reader.read_next_batch()
    except (pa.ArrowException, StopIteration, OSError) as error:
        raise SealInvalidError(path=path, reason=str(error) or "it is empty") from error
    if list(batch.schema) not in ([*_ROW_FIELDS, *_COMPLETIONS], [*_ROW_FIELDS, *_ENCODINGS]):
        raise SealInvalidError(path=path, reason=f"its columns are {', '.join(batch.schema.names)}")
    return batch, (batch.schema.metadata or {}).get(_IDENTITY, b"").decode("utf-8", "replace")


def _results(batch: pa.RecordBatch) -> list[Result | None]:
    """The result of each line; request ids are of a connection that is gone."""
    if "values" in batch.schema.names:
        return [Encoding(id=0, values=values) for values in _arrays(batch["values"]) if values is not None]
    lines = zip(
        _arrays(batch["output_ids"]), batch["finish_reason"].to_pylist(), _arrays(batch["logprobs"]), strict=True
    )
    return [
        Completion(id=0, output_ids=ids, finish_reason=reason, logprobs=logprobs)
        for ids, reason, logprobs in lines
        if ids is not None
    ]


def _arrays(column: pa.ListArray) -> list[np.ndarray | None]:
    """Each list as an array, None for null."""
    values, offsets = column.values.to_numpy(), column.offsets.to_pylist()
    nulls = column.is_null().to_pylist()
    return [None if null else values[offsets[at] : offsets[at + 1]] for at, null in enumerate(nulls)]
