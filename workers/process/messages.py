"""Requests and results as frames: ids and arrays as Arrow batches, sampling parameters once each in the header."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

import numpy as np
import pyarrow as pa

from parquetry.workers.process.wire import Frame, WireError
from parquetry.workers.request import (
    Completion,
    EncodeRequest,
    Encoding,
    GenerationRequest,
    Request,
    Result,
    SamplingParams,
    VisionRequest,
)

#: requests or results one frame holds at most; keeps frames small and latency low
_MAX_ITEMS = 1024
SUBMIT = "submit"
RESULTS = "results"
#: the supervisor asks for another engine on the same weights
SWITCH = "switch"


def request_frames(requests: Sequence[Request]) -> Iterator[Frame]:
    """Frames that carry the requests in order; one frame holds one kind."""
    for chunk in _chunks(requests):
        if isinstance(chunk[0], VisionRequest):
            yield _vision_frame(chunk)
        elif isinstance(chunk[0], GenerationRequest):
            yield _generation_frame(chunk)
        else:
            yield _encode_frame(chunk)


def read_requests(frame: Frame) -> list[Request]:
    """The requests of a frame. Raises WireError."""
    batch = _read(frame.payload)
    if frame.header.get("kind") == "generate":
        return _generation_requests(frame, batch)
    if frame.header.get("kind") == "vision":
        return _vision_requests(frame, batch)
    columns = zip(_ids(batch), _lists(batch, "token_ids"), _lists(batch, "token_type_ids"), strict=True)
    return [EncodeRequest(id=id, token_ids=ids, token_type_ids=types) for id, ids, types in columns]


def _generation_frame(requests: Sequence[GenerationRequest]) -> Frame:
    header, columns = _generation_columns(requests)
    columns["prompt_ids"] = _list_array([request.prompt_ids for request in requests], np.int32)
    return Frame({**header, "kind": "generate"}, _write(columns))


def _generation_columns(requests: Sequence[GenerationRequest]) -> tuple[dict, dict[str, pa.Array]]:
    """What all kinds of prompts have in common: a header, and columns."""
    numbers: dict[SamplingParams, int] = {}
    columns = {
        "id": pa.array([request.id for request in requests], pa.int64()),
        "row": pa.array([request.row for request in requests], pa.int64()),
        "sample": pa.array([request.sample for request in requests], pa.int32()),
        "adapter": pa.array([request.adapter for request in requests], pa.string()),
        "params": pa.array([numbers.setdefault(request.params, len(numbers)) for request in requests], pa.int32()),
    }
    return {"op": SUBMIT, "params": [asdict(params) for params in numbers]}, columns


def _common_fields(frame: Frame, batch: pa.RecordBatch) -> list[dict]:
    """The fields of each request that `_generation_columns` wrote."""
    known = [_params(fields) for fields in frame.header["params"]]
    rows = batch.select(["id", "row", "sample", "adapter", "params"]).to_pylist()
    return [{**row, "params": known[row["params"]]} for row in rows]


def _generation_requests(frame: Frame, batch: pa.RecordBatch) -> list[Request]:
    pairs = zip(_common_fields(frame, batch), _lists(batch, "prompt_ids"), strict=True)
    return [GenerationRequest(prompt_ids=ids, **fields) for fields, ids in pairs]


def _vision_frame(requests: Sequence[VisionRequest]) -> Frame:
    """Images travel as they are encoded, and once however many samples share them."""
    header, columns = _generation_columns(requests)
    unique = {id(image): image for request in requests for image in request.images}
    places = {key: place for place, key in enumerate(unique)}
    columns |= {
        "text": pa.array([request.text for request in requests], pa.large_string()),
        "is_plain": pa.array([request.is_plain for request in requests], pa.bool_()),
        "images": _list_array([[places[id(image)] for image in request.images] for request in requests], np.int32),
    }
    images = pa.record_batch({"image": pa.array(list(unique.values()), pa.large_binary())})
    return Frame({**header, "kind": "vision"}, _write(columns, images))


def _vision_requests(frame: Frame, batch: pa.RecordBatch) -> list[Request]:
    images = _read(frame.payload, batch=1)["image"].to_pylist()
    places = _lists(batch, "images")
    if not all(((mine >= 0) & (mine < len(images))).all() for mine in places):
        raise WireError("a request names an image that its frame does not hold")
    columns = zip(_common_fields(frame, batch), batch["text"], batch["is_plain"], places, strict=True)
    return [
        VisionRequest(
            text=text.as_py(), is_plain=is_plain.as_py(), images=tuple(images[place] for place in mine), **fields
        )
        for fields, text, is_plain, mine in columns
    ]


def _params(fields: dict) -> SamplingParams:
    tuples = {name: tuple(fields[name]) for name in ("stop", "stop_ids")}
    return SamplingParams(**{**fields, **tuples})


def _encode_frame(requests: Sequence[EncodeRequest]) -> Frame:
    columns = {
        "id": pa.array([request.id for request in requests], pa.int64()),
        "token_ids": _list_array([request.token_ids for request in requests], np.int32),
        "token_type_ids": _list_array([request.token_type_ids for request in requests], np.int32),
    }
    return Frame({"op": SUBMIT, "kind": "encode"}, _write(columns))


def result_frames(results: Sequence[Result]) -> Iterator[Frame]:
    """Frames that carry the results in order."""
    for chunk in _chunks(results):
        if isinstance(chunk[0], Completion):
            yield _completion_frame(chunk)
        else:
            yield _encoding_frame(chunk)


def read_results(frame: Frame) -> list[Result]:
    """The results of a frame. Raises WireError."""
    batch = _read(frame.payload)
    errors = batch["error"].to_pylist()
    if frame.header.get("kind") == "encoding":
        columns = zip(_ids(batch), _lists(batch, "values"), errors, strict=True)
        return [Encoding(id=id, values=values, error=error) for id, values, error in columns]
    reasons = batch["finish_reason"].to_pylist()
    counts = batch["num_prompt_tokens"].to_pylist()
    lists = _lists(batch, "output_ids"), _lists(batch, "logprobs")
    columns = zip(_ids(batch), reasons, counts, errors, *lists, strict=True)
    return [
        Completion(id=id, output_ids=ids, finish_reason=reason, logprobs=logprobs, num_prompt_tokens=count, error=error)
        for id, reason, count, error, ids, logprobs in columns
    ]


def _completion_frame(results: Sequence[Completion]) -> Frame:
    columns = {
        "id": pa.array([result.id for result in results], pa.int64()),
        "output_ids": _list_array([result.output_ids for result in results], np.int32),
        "finish_reason": pa.array([result.finish_reason for result in results], pa.string()),
        "num_prompt_tokens": pa.array([result.num_prompt_tokens for result in results], pa.int64()),
        "logprobs": _list_array([result.logprobs for result in results], np.float32),
        "error": pa.array([result.error for result in results], pa.string()),
    }
    return Frame({"op": RESULTS, "kind": "completion"}, _write(columns))


def _encoding_frame(results: Sequence[Encoding]) -> Frame:
    columns = {
        "id": pa.array([result.id for result in results], pa.int64()),
        "values": _list_array([result.values for result in results], np.float32),
        "error": pa.array([result.error for result in results], pa.string()),
    }
    return Frame({"op": RESULTS, "kind": "encoding"}, _write(columns))


def _chunks(items: Sequence) -> Iterator[Sequence]:
    return (items[start : start + _MAX_ITEMS] for start in range(0, len(items), _MAX_ITEMS))


def _list_array(rows: Sequence[np.ndarray | None], dtype: type) -> pa.ListArray:
    """Arrays of any length as one list column; None becomes null."""
    present = [row for row in rows if row is not None]
    if not present:
        return pa.nulls(len(rows), pa.list_(pa.from_numpy_dtype(dtype)))
    lengths = [0 if row is None else len(row) for row in rows]
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    values = np.concatenate(present).astype(dtype, copy=False)
    mask = pa.array([row is None for row in rows], pa.bool_()) if len(present) < len(rows) else None
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values), mask=mask)


def _lists(batch: pa.RecordBatch, name: str) -> list[np.ndarray | None]:
    """The rows of a list column as views of its buffer."""
    column = batch[name]
    if column.null_count == len(column):
        return [None] * len(column)
    values = column.values.to_numpy()
    offsets = column.offsets.to_pylist()
    nulls = column.is_null().to_pylist()
    bounds = zip(offsets[:-1], offsets[1:], nulls, strict=True)
    return [None if null else values[start:stop] for start, stop, null in bounds]


def _ids(batch: pa.RecordBatch) -> list[int]:
    return batch["id"].to_pylist()


def _write(columns: dict[str, pa.Array], *more: pa.RecordBatch) -> bytes:
    """One Arrow stream after the other, each of one batch."""
    sink = pa.BufferOutputStream()
    for batch in (pa.record_batch(columns), *more):
        with pa.ipc.new_stream(sink, batch.schema) as stream:
            stream.write_batch(batch)
    return sink.getvalue().to_pybytes()


def _read(payload: bytes, *, batch: int = 0) -> pa.RecordBatch:
    """The batch of the stream with that number."""
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
