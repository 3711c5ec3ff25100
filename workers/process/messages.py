"""Requests and results as frames: ids and arrays as Arrow batches, sampling parameters once each in the header."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from parquetry.workers.process.arrays import list_array, lists, optional_lists, read, write
from parquetry.workers.process.wire import Frame, WireError
from parquetry.workers.request import (
    Completion,
    EncodeRequest,
    Encoding,
    GenerationRequest,
    Request,
    Result,
    SamplingParams,
    UnderWay,
    VisionRequest,
)

#: requests or results one frame holds at most; keeps frames small and latency low
_MAX_ITEMS = 1024
#: a shard runner asks the supervisor for an engine
ASK = "ask"
#: and tells it from then on that it is at work
HERE = "here"
SUBMIT = "submit"
RESULTS = "results"
#: how far the engine is with requests that it has begun
UNDER_WAY = "under way"
#: the supervisor asks for another engine on the same weights
SWITCH = "switch"


def request_frames(requests: Sequence[Request]) -> Iterator[Frame]:
    """Frames that carry the requests in order; one frame holds one kind."""
    for batch in _batches(requests):
        if isinstance(batch[0], VisionRequest):
            yield _vision_frame(batch)
        elif isinstance(batch[0], GenerationRequest):
            yield _generation_frame(batch)
        else:
            yield _encode_frame(batch)


def read_requests(frame: Frame) -> list[Request]:
    """The requests of a frame. Raises WireError."""
    batch = read(frame.payload)
    if frame.header.get("kind") == "generate":
        return _generation_requests(frame, batch)
    if frame.header.get("kind") == "vision":
        return _vision_requests(frame, batch)
    columns = zip(_ids(batch), lists(batch, "token_ids"), optional_lists(batch, "token_type_ids"), strict=True)
    return [EncodeRequest(id=id, token_ids=ids, token_type_ids=types) for id, ids, types in columns]


def _generation_frame(requests: Sequence[GenerationRequest]) -> Frame:
    header, columns = _generation_columns(requests)
    columns["prompt_ids"] = list_array([request.prompt_ids for request in requests], np.int32)
    return Frame({**header, "kind": "generate"}, write(columns))


def _generation_columns(requests: Sequence[GenerationRequest]) -> tuple[dict[str, Any], dict[str, pa.Array]]:
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


def _common_fields(frame: Frame, batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """The fields of each request that `_generation_columns` wrote."""
    known = [_params(fields) for fields in frame.header["params"]]
    rows = batch.select(["id", "row", "sample", "adapter", "params"]).to_pylist()
    return [{**row, "params": known[row["params"]]} for row in rows]


def _generation_requests(frame: Frame, batch: pa.RecordBatch) -> list[Request]:
    pairs = zip(_common_fields(frame, batch), lists(batch, "prompt_ids"), strict=True)
    return [GenerationRequest(prompt_ids=ids, **fields) for fields, ids in pairs]


def _vision_frame(requests: Sequence[VisionRequest]) -> Frame:
    """Images travel as they are encoded, and once however many samples share them."""
    header, columns = _generation_columns(requests)
    unique = {id(image): image for request in requests for image in request.images}
    numbers = {key: number for number, key in enumerate(unique)}
    named = [np.array([numbers[id(image)] for image in request.images], np.int32) for request in requests]
    columns |= {
        "text": pa.array([request.text for request in requests], pa.large_string()),
        "is_plain": pa.array([request.is_plain for request in requests], pa.bool_()),
        "images": list_array(named, np.int32),
    }
    images = pa.record_batch({"image": pa.array(list(unique.values()), pa.large_binary())})
    return Frame({**header, "kind": "vision"}, write(columns, images))


def _vision_requests(frame: Frame, batch: pa.RecordBatch) -> list[Request]:
    images = read(frame.payload, batch=1)["image"].to_pylist()
    numbers = lists(batch, "images")
    if not all(np.all((mine >= 0) & (mine < len(images))) for mine in numbers):
        raise WireError("a request names an image that its frame does not hold")
    columns = zip(_common_fields(frame, batch), batch["text"], batch["is_plain"], numbers, strict=True)
    return [
        VisionRequest(
            text=text.as_py(), is_plain=is_plain.as_py(), images=tuple(images[number] for number in mine), **fields
        )
        for fields, text, is_plain, mine in columns
    ]


def _params(fields: dict[str, Any]) -> SamplingParams:
    tuples = {name: tuple(fields[name]) for name in ("stop", "stop_ids")}
    return SamplingParams(**{**fields, **tuples})


def _encode_frame(requests: Sequence[EncodeRequest]) -> Frame:
    columns = {
        "id": pa.array([request.id for request in requests], pa.int64()),
        "token_ids": list_array([request.token_ids for request in requests], np.int32),
        "token_type_ids": list_array([request.token_type_ids for request in requests], np.int32),
    }
    return Frame({"op": SUBMIT, "kind": "encode"}, write(columns))


def result_frames(results: Sequence[Result]) -> Iterator[Frame]:
    """Frames that carry the results in order."""
    for batch in _batches(results):
        if isinstance(batch[0], Completion):
            yield _completion_frame(batch)
        else:
            yield _encoding_frame(batch)


def read_results(frame: Frame) -> list[Result]:
    """The results of a frame. Raises WireError."""
    batch = read(frame.payload)
    errors = batch["error"].to_pylist()
    if frame.header.get("kind") == "encoding":
        columns = zip(_ids(batch), lists(batch, "values"), errors, strict=True)
        return [Encoding(id=id, values=values, error=error) for id, values, error in columns]
    reasons, counts = batch["finish_reason"].to_pylist(), batch["num_prompt_tokens"].to_pylist()
    outputs, logprobs = lists(batch, "output_ids"), optional_lists(batch, "logprobs")
    return [
        Completion(id=id, output_ids=ids, finish_reason=reason, logprobs=values, num_prompt_tokens=count, error=error)
        for id, reason, count, error, ids, values in zip(
            _ids(batch), reasons, counts, errors, outputs, logprobs, strict=True
        )
    ]


def _completion_frame(results: Sequence[Completion]) -> Frame:
    columns = {
        "id": pa.array([result.id for result in results], pa.int64()),
        "output_ids": list_array([result.output_ids for result in results], np.int32),
        "finish_reason": pa.array([result.finish_reason for result in results], pa.string()),
        "num_prompt_tokens": pa.array([result.num_prompt_tokens for result in results], pa.int64()),
        "logprobs": list_array([result.logprobs for result in results], np.float32),
        "error": pa.array([result.error for result in results], pa.string()),
    }
    return Frame({"op": RESULTS, "kind": "completion"}, write(columns))


def _encoding_frame(results: Sequence[Encoding]) -> Frame:
    columns = {
        "id": pa.array([result.id for result in results], pa.int64()),
        "values": list_array([result.values for result in results], np.float32),
        "error": pa.array([result.error for result in results], pa.string()),
    }
    return Frame({"op": RESULTS, "kind": "encoding"}, write(columns))


def under_way_frame(found: Sequence[tuple[int, int, int]]) -> Frame:
    """How far some requests are, each as UnderWay has it, in 24 bytes."""
    flat = np.fromiter(chain.from_iterable(found), np.int64, 3 * len(found))
    return Frame({"op": UNDER_WAY}, flat.tobytes())


def read_under_way(frame: Frame) -> list[UnderWay]:
    """Raises WireError."""
    numbers = np.frombuffer(frame.payload, np.int64) if len(frame.payload) % 24 == 0 else None
    if numbers is None:
        raise WireError("a frame tells of half a request")
    return [UnderWay(*row) for row in numbers.reshape(-1, 3).tolist()]


def _batches(items: Sequence) -> Iterator[Sequence]:
    return (items[start : start + _MAX_ITEMS] for start in range(0, len(items), _MAX_ITEMS))


def _ids(batch: pa.RecordBatch) -> list[int]:
    return batch["id"].to_pylist()
