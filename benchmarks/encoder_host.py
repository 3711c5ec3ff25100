"""What the host does for an encoder job, without a model: tokens a second of one process on either side of the socket.

    python benchmarks/encoder_host.py                  # 30,000 rows of mixed texts
    python benchmarks/encoder_host.py --lengths short --profile runner

`runner`: a shard from Parquet to Parquet (read, tokenize, request frames, results, write), the engine answers at once.
`node`: two runners, and the engine with a device of a given speed: how much of the device's time is used.
`engine`: frames of requests to packed batches to frames of results, the device takes no time. A node has one engine
process a card and a runner process for every shard in flight, so a card can be fed at the rate of the engine side, and
of as many runners as shards are in flight.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import multiprocessing
import os
import pstats
import select
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from encoder_files import as_text, write_tokenizer
from encoder_sides import NUM_LABELS, write_model
from texts import LENGTHS, texts

from schemas.job import JobSpec
from schemas.location import Location
from schemas.manifest import JobRecord
from schemas.shard import InputFile, ShardPlan
from schemas.storage import open_storage
from workers.encoding.batch import pack
from workers.encoding.queue import packed_cost
from workers.encoding.queued import QueuedEncoder
from workers.encoding.rows import RowLimits
from workers.engine_server import EngineServer, _Connection
from workers.messages import RESULTS, read_results, request_frames
from workers.pipeline import run_shard
from workers.request import EncodeRequest, Request, Result
from workers.wire import Frame, FrameBuffer, receive, send

_BUDGET = 65_536
_VOCAB = 30522


class NullEncoder(QueuedEncoder):
    """Forms batches and takes them apart again; the values are zeros."""

    depth = 2

    def __init__(self) -> None:
        super().__init__(RowLimits(vocab_size=_VOCAB, max_tokens=512, type_vocab_size=2), _BUDGET, packed_cost)

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
    """Stands for an EngineClient on a socket that is connected already."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket, self._buffer = connection, FrameBuffer()

    def submit(self, requests: Sequence[Request]) -> None:
        for frame in request_frames(requests):
            send(self._socket, frame)

    def results(self, timeout: float = 0.0) -> list[Result]:
        if not select.select([self._socket], [], [], timeout)[0]:
            return []
        return [result for frame in receive(self._socket, self._buffer) or () for result in read_results(frame)]

    def cancel(self, ids: Sequence[int]) -> None: ...

    def describe(self) -> dict[str, str]:
        return NullEncoder().describe()


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


def shard_runner(rows: list[np.ndarray], folder: Path) -> Callable[..., None]:
    """What runs one shard of the rows with the engine client it is given."""
    model = folder / "model"
    write_model("tiny", model)
    write_tokenizer(model)
    table = folder / "rows.parquet"
    pq.write_table(pa.table({"text": [as_text(row) for row in rows]}), table, row_group_size=8192)
    entry = open_storage(Location.parse(str(folder))).head(table.name)
    file = InputFile(path=str(table), num_rows=len(rows), size=entry.size, etag=entry.etag, partitions={})
    spec = {"task": "classify", "input": {"path": str(table)}, "output": {"path": "out", "keep": []}}
    record = JobRecord(
        job="job-0123456789ab",
        created="2026-01-02T03:04:05+00:00",
        spec=JobSpec.parse({**spec, "model": {"id": str(model)}, "classify": {"all_scores": True}}),
        model_path=str(model),
        plan=ShardPlan(files=(file,), bounds=(0, len(rows))),
    )

    def run(client, number: int = 0) -> None:
        run_shard(record, record.plan.shard(0), fence=1, attempt=folder / f"attempt-{number}", engine=client)

    return run


def runner_side(rows: list[np.ndarray], folder: Path) -> Callable[[], None]:
    """What runs one shard of the rows."""
    run = shard_runner(rows, folder)
    return lambda: run(AnsweringClient())


def node_use(rows: list[np.ndarray], folder: Path, rate: float, num_runners: int) -> float:
    """Share of the device's time that runners, each with all the rows, keep it busy."""
    run, engine = shard_runner(rows, folder), PacedEncoder(rate)
    server = EngineServer(None, _Pulse())
    server._engine = engine
    runners = []
    for number in range(num_runners):
        mine, theirs = socket.socketpair()
        runner = multiprocessing.get_context("fork").Process(target=run, args=(SocketClient(mine), number))
        runner.start()
        mine.close()
        runners.append((runner, theirs))
    connections = [_Connection(theirs, server._inbox) for _, theirs in runners]
    while any(runner.is_alive() for runner, _ in runners):
        _serve_once(server, engine)
    for connection in connections:
        connection.close()
    return engine.use


def _serve_once(server: EngineServer, engine: NullEncoder) -> None:
    if not engine.num_unfinished:
        server._take_one(0.005)
    server.attend()
    if engine.num_unfinished:
        server._deliver(engine.step())


class _Pulse:
    def beat(self) -> None: ...

    def ready(self) -> None: ...


def engine_side(rows: list[np.ndarray], folder: Path) -> Callable[[], None]:
    """What serves the rows, over a real socket; the client's share is prepared before and read after."""
    requests = [EncodeRequest(id=number, token_ids=row) for number, row in enumerate(rows)]
    parts = [requests[start : start + 256] for start in range(0, len(requests), 256)]
    frames = [frame for part in parts for frame in request_frames(part)]
    server = EngineServer(None, _Pulse())
    engine = NullEncoder()
    server._engine = engine

    def run() -> None:
        mine, theirs = socket.socketpair()
        client = multiprocessing.get_context("fork").Process(target=_feed, args=(mine, frames, len(rows)))
        client.start()
        mine.close()
        connection = _Connection(theirs, server._inbox)
        while client.is_alive():
            _serve_once(server, engine)
        connection.close()

    return run


def _feed(connection: socket.socket, frames: list[Frame], num_rows: int) -> None:
    """A client: sends all requests while it counts the results."""
    threading.Thread(target=lambda: [send(connection, frame) for frame in frames]).start()
    buffer, missing = FrameBuffer(), num_rows
    while missing:
        for frame in receive(connection, buffer) or ():
            with pa.ipc.open_stream(frame.payload) as stream:
                missing -= stream.read_next_batch().num_rows


SIDES = {"runner": runner_side, "engine": engine_side}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lengths", choices=LENGTHS, default="mixed")
    parser.add_argument("--rows", type=int, default=30_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--node", type=float, metavar="RATE", help="a node whose device does RATE tokens a second")
    parser.add_argument("--runners", type=int, default=2, help="of the node")
    parser.add_argument("--profile", choices=SIDES, help="list where this side's time goes")
    args = parser.parse_args()
    rows = texts(args.lengths, args.rows)
    num_tokens = sum(map(len, rows))
    print(f"{args.rows} rows of {num_tokens / args.rows:.0f} tokens, {len(os.sched_getaffinity(0))} cores", flush=True)
    # as engines do; a runner does not have torch in the first place
    gc.collect()
    gc.freeze()
    with tempfile.TemporaryDirectory() as folder:
        if args.node:
            use = node_use(rows, Path(folder), args.node, args.runners)
            print(f"node: {use:.1%} of the time of a device that does {args.node:,.0f} tokens/s")
            return
        for name in [args.profile] if args.profile else args.sides:
            run = SIDES[name](rows, Path(folder))
            if args.profile:
                with cProfile.Profile() as profile:
                    run()
                pstats.Stats(profile).sort_stats("tottime").print_stats(35)
                return
            best = min(_timed(run) for _ in range(args.rounds))
            cost = 1e6 * best[1] / args.rows
            print(f"{name}: {num_tokens / best[0]:,.0f} tokens/s, {cost:.1f} us of CPU a row", flush=True)


def _timed(run: Callable[[], None]) -> tuple[float, float]:
    """Seconds by the clock, and of all CPUs."""
    start, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - start, time.process_time() - cpu


if __name__ == "__main__":
    main()
