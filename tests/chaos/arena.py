"""The world of one case: its server, its workers, its jobs and its folder. Everything started here ends here."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tests.chaos.input_table import write_model, write_table
from tests.chaos.job import Job
from tests.chaos.ledger_audit import holders, is_committed
from tests.chaos.process import Process, wait_until
from tests.chaos.s3_server import S3Server
from tests.chaos.sentinels import Sentinels
from tests.chaos.server import Server

ENV = "chaos"
#: short enough for a run of minutes, and still three beats long
LEASE_S = 4.0
#: what serves permits; its pool of children is forked when it is about to ask for the first one
SERVER = "parquetry.tasks.node.celery_main"


class Arena:
    """A context: `with Arena(folder) as arena`. Settings are given as PARQUETRY_* names without the prefix."""

    def __init__(
        self,
        folder: Path,
        *,
        persistent: bool = True,
        sentinels: bool = False,
        s3: bool = False,
        ms_per_row: float = 2.0,
        **settings: object,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        redis = folder / "redis"
        self.server = Sentinels(redis) if sentinels else Server(redis, persistent=persistent)
        self.s3 = S3Server(folder) if s3 else None
        self.workers: list[Process] = []
        self._started = 0
        write_model(folder / "model")
        self.environment = self._environment(ms_per_row, settings)

    def _environment(self, ms_per_row: float, settings: Mapping[str, object]) -> dict[str, str]:
        chosen = {
            "BROKER_URL": self.server.url,
            "ENV": ENV,
            "LEASE_SECONDS": LEASE_S,
            "RECONCILE_SECONDS": 1.0,
            "ENGINE_STALL_SECONDS": 5.0,
            "DRAIN_SECONDS": 3.0,
            "STATE_DIR": self.folder / "state",
            "ENGINE_FACTORY": "tests.chaos.echo_engine:open_engine",
            **{name.upper(): value for name, value in settings.items()},
        }
        ours = {f"PARQUETRY_{name}": str(value) for name, value in chosen.items()}
        chaos = {"CHAOS_LOG": str(self.folder / "rows"), "CHAOS_MS_PER_ROW": str(ms_per_row)}
        return {**ours, **chaos, **(self.s3.environment if self.s3 else {})}

    def __enter__(self) -> Self:
        from parquetry.schemas.settings import settings

        os.environ.update(self.environment)
        settings.cache_clear()
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self.workers:
            worker.kill()
        self.server.kill()
        if self.s3 is not None:
            self.s3.stop()

    def job(
        self,
        rows: int,
        shard_rows: int,
        *,
        name: str = "out",
        spells: Mapping[int, str] | None = None,
        **options: object,
    ) -> Job:
        """Write a table and submit a job over it."""
        job = Job(self.folder, self.server, ENV, name, self.s3)
        write_table(job.table, rows, spells)
        job.submit(shard_rows, **options)
        return job

    def start_worker(self, *, engines: int = 1, in_flight: int = 2, **environment: str) -> Process:
        """`parquetry worker` with echo engines; it is listed at once and serves a second or two later."""
        self._started += 1
        command = [sys.executable, "-P", "-m", "parquetry", "worker", "--gpus", "none"]
        command += ["--cpu-engines", str(engines), "--shards-in-flight", str(in_flight)]
        log = self.folder / f"worker-{self._started}.log"
        worker = Process(command, log, **{**self.environment, **environment})
        self.workers.append(worker)
        return worker

    def wait_for_workers(self, count: int, timeout_s: float = 180.0) -> None:
        """Return when so many devices have announced themselves."""
        key = f"pq:{ENV}:workers"
        wait_until(lambda: self.server.client().zcard(key) >= count, timeout_s, f"{count} workers")

    def serving(self) -> list[Process]:
        """The workers that have announced themselves, and so may be drained."""
        names = [name.decode() for name in self.server.client().zrange(f"pq:{ENV}:workers", 0, -1)]
        return [worker for worker in self.workers if any(f"-{worker.pid}-" in name for name in names)]

    def ready_at(self, worker: Process, timeout_s: float = 180.0) -> float:
        """When this worker could take its first permit, in seconds since 1970: what it took to start is no wait."""
        wait_until(lambda: worker.forked_at(SERVER) > 0, timeout_s, "a worker to be ready")
        return worker.forked_at(SERVER)

    def first_ready(self) -> float:
        """When the first of the living workers was ready, in seconds since 1970; 0 where none is."""
        return min(filter(None, (worker.forked_at(SERVER) for worker in list(self.workers))), default=0.0)

    def kill_worker(self, worker: Process) -> None:
        """The power of its machine fails."""
        self.workers.remove(worker)
        worker.kill()

    def held_by(self, job: Job, worker: Process) -> dict[int, str]:
        """The shards this node's processes hold, with their tokens. A worker's name has its node's process id."""
        held = holders(self.server.client(), ENV, job.id)
        return {shard: token for shard, token in held.items() if f"-{worker.pid}-" in token}

    def wait_for_takeover(self, job: Job, held: Mapping[int, str], timeout_s: float = 60.0) -> float:
        """When every one of these shards is held under another token, or committed, in seconds since 1970."""
        client = self.server.client()
        for shard, token in held.items():
            wait_until(
                lambda shard=shard, token=token: (
                    holders(client, ENV, job.id).get(shard, token) != token or is_committed(client, ENV, job.id, shard)
                ),
                timeout_s,
                f"somebody to take shard {shard} over",
            )
        return time.time()

    def command(self, *arguments: str) -> Process:
        """Run `parquetry ARGUMENTS` to its end."""
        log = self.folder / f"{arguments[0]}.log"
        process = Process([sys.executable, "-P", "-m", "parquetry", *arguments], log, **self.environment)
        process.wait(60.0)
        return process
