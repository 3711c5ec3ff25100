"""What the host does for an encoder job, without a model: tokens a second of one process on either side of the socket.

    python benchmarks/encoder_host.py                  # 30,000 rows of mixed texts
    python benchmarks/encoder_host.py --lengths short --profile runner

`runner`: a shard from Parquet to Parquet (read, tokenize, request frames, results, write), the engine answers at once.
`node`: runners with a shard or more each, and the engine with a device of a given speed: how much of its time is used.
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
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from encoder_files import as_text, write_tokenizer
from encoder_sides import write_model
from encoder_stand_ins import AnsweringClient, NullEncoder, PacedEncoder, SocketClient
from texts import LENGTHS, texts

from parquetry.schemas.location import Location
from parquetry.schemas.manifest import JobRecord
from parquetry.schemas.shard import InputFile, ShardPlan
from parquetry.schemas.spec.columns import schema_text
from parquetry.schemas.spec.job import JobSpec
from parquetry.schemas.storage.opening import open_storage
from parquetry.workers.process.messages import RESULTS, request_frames
from parquetry.workers.process.server import EngineServer
from parquetry.workers.process.wire import Frame, FrameBuffer, dial, listen, receive, send
from parquetry.workers.request import EncodeRequest
from parquetry.workers.shards.pipeline import run_shard


def shard_runner(rows: list[np.ndarray], folder: Path) -> Callable[..., None]:
    """What runs one shard of the rows with the engine client it is given."""
    model = folder / "model"
    write_model("tiny", model)
    write_tokenizer(model)
    table = folder / "rows.parquet"
    texts = pa.table({"text": [as_text(row) for row in rows]})
    pq.write_table(texts, table, row_group_size=8192)
    entry = open_storage(Location.parse(str(folder))).head(table.name)
    file = InputFile(path=str(table), num_rows=len(rows), size=entry.size, etag=entry.etag, partitions={})
    spec = {"task": "classify", "input": {"path": str(table)}, "output": {"path": "out", "keep": []}}
    record = JobRecord(
        job="job-0123456789ab",
        created="2026-01-02T03:04:05+00:00",
        spec=JobSpec.parse({**spec, "model": {"id": str(model)}, "classify": {"all_scores": True}}),
        model_path=str(model),
        input_schema=schema_text(texts.schema),
        shard_plan=ShardPlan(files=(file,), bounds=(0, len(rows))),
    )

    def run(client, number: int = 0) -> None:
        run_shard(record, record.shard_plan.shard(0), fence=1, attempt=folder / f"attempt-{number}", engine=client)

    return run


def runner_side(rows: list[np.ndarray], folder: Path) -> Callable[[], None]:
    """What runs one shard of the rows."""
    run = shard_runner(rows, folder)
    return lambda: run(AnsweringClient())


def node_use(rows: list[np.ndarray], folder: Path, rate: float, num_runners: int, num_shards: int) -> float:
    """Share of the device's time that runners keep it busy, each with `num_shards` shards of all the rows in turn."""
    run, engine, path = shard_runner(rows, folder), PacedEncoder(rate), folder / "engine.sock"

    def shards(runner: int) -> None:
        for number in range(num_shards):
            with SocketClient(dial(path)) as client:
                run(client, runner * num_shards + number)

    _serve(engine, path)
    runners = [multiprocessing.get_context("fork").Process(target=shards, args=(n,)) for n in range(num_runners)]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join()
    return engine.use


def _serve(engine: NullEncoder, path: Path) -> None:
    """The engine's server on a socket, in a thread of its own."""
    server = EngineServer(listen(path), _Pulse())
    threading.Thread(target=server.serve, args=(None, lambda _: engine), daemon=True).start()


class _Pulse:
    def send(self, stats: object = None) -> None: ...

    def ready(self) -> None: ...


def engine_side(rows: list[np.ndarray], folder: Path) -> Callable[[], None]:
    """What serves the rows, over a real socket; the client's share is prepared before and read after."""
    requests = [EncodeRequest(id=number, token_ids=row) for number, row in enumerate(rows)]
    parts = [requests[start : start + 256] for start in range(0, len(requests), 256)]
    frames = [frame for part in parts for frame in request_frames(part)]
    _serve(NullEncoder(), folder / "engine.sock")

    def run() -> None:
        arguments = folder / "engine.sock", frames, len(rows)
        client = multiprocessing.get_context("fork").Process(target=_feed, args=arguments)
        client.start()
        client.join()

    return run


def _feed(path: Path, frames: list[Frame], num_rows: int) -> None:
    """A client: sends all requests while it counts the results."""
    connection = dial(path)
    threading.Thread(target=lambda: [send(connection, frame) for frame in frames]).start()
    buffer, missing = FrameBuffer(), num_rows
    while missing:
        for frame in receive(connection, buffer) or ():
            if frame.header["op"] != RESULTS:
                continue
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
    parser.add_argument("--shards", type=int, default=1, help="of all the rows, that each runner runs in turn")
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
            use = node_use(rows, Path(folder), args.node, args.runners, args.shards)
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
