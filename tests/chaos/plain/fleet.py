"""A plain Celery job in progress: its server, its workers, and what came of its rows."""

from __future__ import annotations

import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
from celery import Celery

from tests.chaos.input_table import write_table
from tests.chaos.process import Process, wait_until
from tests.chaos.server import Server

SHARD_ROWS = 10


@dataclass(frozen=True, kw_only=True)
class PlainOutcome:
    """What became of the rows of a plain Celery job."""

    rows: int
    lost: int
    doubled: int
    #: shards started more than once
    recomputed: int


class PlainFleet:
    """`shards` shards of SHARD_ROWS rows on plain Celery workers."""

    def __init__(
        self,
        folder: Path,
        *,
        late: bool,
        shards: int,
        ms_per_row: float,
        visibility_s: float | None = None,
        persistent: bool = True,
        spells: dict[int, str] | None = None,
    ) -> None:
        self.folder, self.shards, self._workers = folder, shards, list[Process]()
        self.server = Server(folder / "redis", persistent=persistent)
        self._table = write_table(folder / "in.parquet", shards * SHARD_ROWS, spells)
        self._output = folder / "out"
        self._output.mkdir()
        self._environment = {
            "PLAIN_BROKER": self.server.url,
            "PLAIN_LATE": str(int(late)),
            "PLAIN_TABLE": str(self._table),
            "PLAIN_OUTPUT": str(self._output),
            "PLAIN_SHARD_ROWS": str(SHARD_ROWS),
            "CHAOS_MS_PER_ROW": str(ms_per_row),
        }
        if visibility_s is not None:
            self._environment["PLAIN_VISIBILITY"] = str(visibility_s)

    def start_worker(self) -> Process:
        """One prefork worker of one child; returns when it listens."""
        number = len(self._workers)
        command = [sys.executable, "-P", "-m", "celery", "-A", "tests.chaos.plain.app", "worker", "-c", "1"]
        command += ["--without-gossip", "--without-mingle", "-n", f"w{number}@chaos", "-l", "INFO"]
        worker = Process(command, self.folder / f"worker-{number}.log", **self._environment)
        self._workers.append(worker)
        wait_until(lambda: " ready." in worker.tail(), 30.0, "a plain worker to be ready")
        return worker

    def submit(self, first: int = 0, last: int | None = None) -> None:
        with Celery(broker=self.server.url) as app:
            for shard in range(first, self.shards if last is None else last):
                app.send_task("tests.chaos.plain.app.infer", args=(shard,), ignore_result=True)

    @property
    def started(self) -> int:
        return sum(1 for _ in self._output.glob("start-*"))

    @property
    def finished(self) -> int:
        return sum(1 for _ in self._output.glob("part-*"))

    def settle(self, quiet_s: float, timeout_s: float = 30.0) -> None:
        """Wait until nothing has started or ended for `quiet_s`: what is missing then will never come."""
        deadline, changed, last = time.monotonic() + timeout_s, time.monotonic(), (-1, -1)
        while time.monotonic() - changed < quiet_s and time.monotonic() < deadline:
            if (now := (self.started, self.finished)) != last:
                changed, last = time.monotonic(), now
            time.sleep(0.1)

    def outcome(self) -> PlainOutcome:
        ids = pq.read_table(self._table).column("id").to_pylist()
        parts = list(self._output.glob("part-*"))
        times = Counter(i for part in parts for i in pq.read_table(part).column("id").to_pylist())
        starts = Counter(path.name.split("-")[1] for path in self._output.glob("start-*"))
        return PlainOutcome(
            rows=len(ids),
            lost=sum(1 for i in ids if not times[i]),
            doubled=sum(count - 1 for count in times.values() if count > 1),
            recomputed=sum(count - 1 for count in starts.values()),
        )

    def stop(self) -> None:
        for worker in self._workers:
            worker.kill()
        self.server.kill()
