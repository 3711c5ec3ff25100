"""Stand-ins for an encoder's device and for its clients, so that the host can be timed by itself."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from encoder_sides import NUM_LABELS

from parquetry.workers.encoding.batching.queue import PACKED
from parquetry.workers.encoding.batching.row_batch import pack
from parquetry.workers.encoding.batching.rows import RowLimits
from parquetry.workers.encoding.queued import QueuedEncoder
from parquetry.workers.process.messages import RESULTS, read_results, request_frames
from parquetry.workers.process.wire import Frame, FrameBuffer, receive, send
from parquetry.workers.request import EncodeRequest, Request, Result, UnderWay

_BUDGET = 65_536
_VOCAB = 30522


class NullEncoder(QueuedEncoder):
    """Forms batches and takes them apart again; the values are zeros."""

    depth = 2

    def __init__(self) -> None:
        super().__init__(RowLimits(vocab_size=_VOCAB, max_tokens=512, type_vocab_size=2), _BUDGET, PACKED)

    def launch(self, requests: list[EncodeRequest]) -> np.ndarray:
        batch = pack(requests, with_types=True)
        batch.positions(0)
        return np.zeros((batch.num_rows, NUM_LABELS), np.float32)

    def collect(self, handle: np.ndarray) -> np.ndarray:
        return handle

    def describe(self) -> dict[str, str]:
        return {"backend": "null", "attention": "none", "num_labels": str(NUM_LABELS)}


class PacedEncoder(NullEncoder):
    """Takes the time that a device of `rate` tokens a second would."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self._rate, self._free_at = rate, 0.0
        self.num_tokens, self.first_at = 0, 0.0

    def launch(self, requests: list[EncodeRequest]) -> tuple[np.ndarray, float]:
        values, tokens = super().launch(requests), sum(len(request.token_ids) for request in requests)
        now = time.perf_counter()
        self.first_at = self.first_at or now
        self._free_at = max(self._free_at, now) + tokens / self._rate
        self.num_tokens += tokens
        return values, self._free_at

    def collect(self, handle: tuple[np.ndarray, float]) -> np.ndarray:
        time.sleep(max(0.0, handle[1] - time.perf_counter()))
        return handle[0]

    @property
    def use(self) -> float:
        """Share of the time since the first batch in which the device worked."""
        return self.num_tokens / self._rate / (self._free_at - self.first_at)


class SocketClient:
    """Stands for an EngineClient, on a socket that is connected to the engine already."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket, self._buffer = connection, FrameBuffer()

    def submit(self, requests: Sequence[Request]) -> None:
        for frame in request_frames(requests):
            send(self._socket, frame)

    def results(self, timeout: float = 0.0) -> list[Result]:
        if not select.select([self._socket], [], [], timeout)[0]:
            return []
        frames = receive(self._socket, self._buffer) or ()
        return [result for frame in frames if frame.header["op"] == RESULTS for result in read_results(frame)]

    def cancel(self, ids: Sequence[int]) -> None: ...

    def under_way(self) -> Sequence[UnderWay]:
        return ()

    def describe(self) -> dict[str, str]:
        return NullEncoder().describe()

    def __enter__(self) -> SocketClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


class AnsweringClient:
    """Stands for an EngineClient; requests and results are still made into frames, and read."""

    def __init__(self) -> None:
        self._frames: list[Frame] = []

    def submit(self, requests: Sequence[Request]) -> None:
        # the other side's share, reading requests, is timed with the engine
        self._frames += list(request_frames(requests))

    def results(self, timeout: float = 0.0) -> list[Result]:
        frames, self._frames = self._frames, []
        return [result for frame in frames for result in read_results(_zeros(frame))]

    def cancel(self, ids: Sequence[int]) -> None:
        self._frames.clear()

    def under_way(self) -> Sequence[UnderWay]:
        return ()

    def describe(self) -> dict[str, str]:
        return NullEncoder().describe()


def _zeros(frame: Frame) -> Frame:
    """A frame of results for a frame of requests, made column by column."""
    with pa.ipc.open_stream(frame.payload) as stream:
        ids = stream.read_next_batch()["id"]
    values = pa.ListArray.from_arrays(
        np.arange(0, NUM_LABELS * len(ids) + 1, NUM_LABELS, np.int32), np.zeros(NUM_LABELS * len(ids), np.float32)
    )
    batch = pa.record_batch({"id": ids, "values": values, "error": pa.nulls(len(ids), pa.string())})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return Frame({"op": RESULTS, "kind": "encoding"}, sink.getvalue().to_pybytes())
