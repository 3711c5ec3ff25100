"""A small job in an environment of its own, and the worker processes forked for it, faulty ones and a sound one."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from tests.chaos.forked import Forked
from tests.chaos.input_table import write_table
from tests.chaos.job import Job
from tests.chaos.report import Outcome
from tests.chaos.s3_server import S3Server
from tests.chaos.server import Server

ROWS = 20
SHARD_ROWS = 10
LEASE_S = 1.5
#: faults are many here, and none of them is the shard's own
MAX_ATTEMPTS = 100
TIMEOUT_S = 120.0


class Cell:
    """Two shards. `run` lets each of `strikes` loose on a worker in turn, then a sound worker, then the zombies."""

    def __init__(
        self,
        name: str,
        folder: Path,
        server: Server,
        supervisor: Path,
        s3: S3Server | None,
        spells: Mapping[int, str] = {},
        options: Mapping[str, object] = {},
    ) -> None:
        self.name, self.folder, self.server, self._supervisor = name, folder / name, server, supervisor
        self.folder.mkdir(parents=True)
        (self.folder / "model").symlink_to(folder / "model")
        self.job = Job(self.folder, server, name, "out", s3)
        if s3 is not None:
            self.job.output = f"s3://chaos/{name}"
        write_table(self.job.table, ROWS, spells)
        self._options = options
        self.outcome = Outcome(fault=name, injected=0)
        self._log = self.folder / "log"

    @property
    def environment(self) -> dict[str, str]:
        s3 = self.job.s3.environment if self.job.s3 else {}
        return {
            "PARQUETRY_ENV": self.name,
            "PARQUETRY_BROKER_URL": self.server.url,
            "PARQUETRY_STATE_DIR": str(self.folder / "state"),
            "PARQUETRY_LEASE_SECONDS": str(LEASE_S),
            "PARQUETRY_MAX_ATTEMPTS": str(MAX_ATTEMPTS),
            **s3,
        }

    def submit(self) -> None:
        """In a process of its own: an object store's client must not be open when workers are forked."""
        ended = Forked(self._submit, self._log, **self.environment).settle(TIMEOUT_S)
        if ended != "exited 0":
            raise RuntimeError(f"submitting {self.name} {ended}: {self._log.read_text()[-500:]}")
        self.job.id = (self.folder / "id").read_text()

    def _submit(self) -> None:
        self.job.submit(SHARD_ROWS, **self._options)
        (self.folder / "id").write_text(self.job.id)

    def worker(self, prepare: Callable[[], None] = lambda: None, **environment: str) -> Forked:
        """Start a worker that serves permits and reconciles until the job is over; `prepare` runs in it first."""

        def work() -> None:
            logging.basicConfig(stream=sys.stderr, level="INFO")
            prepare()
            serve_until_over(self.job.id, self._supervisor)

        return Forked(work, self._log, **{**self.environment, **environment})

    def strike(self, failpoints: str, rounds: int, **environment: str) -> list[Forked]:
        """Let `rounds` workers run into `failpoints`, one after the other. Returns those that only stopped."""
        zombies = []
        for _ in range(rounds):
            worker = self.worker(PARQUETRY_FAILPOINTS=failpoints, **environment)
            if worker.settle(TIMEOUT_S) == "stopped":
                zombies.append(worker)
        return zombies

    def finish(self, zombies: list[Forked]) -> None:
        """A sound worker ends the job; then the zombies wake up and must do no harm."""
        begin = time.monotonic()
        ended = self.worker().settle(TIMEOUT_S)
        self.outcome.slowest_s = time.monotonic() - begin
        self.outcome.require(ended == "exited 0", f"{self.name}: the sound worker {ended}")
        for zombie in zombies:
            zombie.signal(signal.SIGCONT)
        for zombie in zombies:
            zombie.settle(TIMEOUT_S)

    def has_struck(self, step: str) -> bool:
        return any((self.folder / "state" / "failpoints").glob(f"{step}.*"))

    def judge(self) -> None:
        self.job.judge(self.outcome)
        self.outcome.injected = sum(1 for _ in (self.folder / "state" / "failpoints").glob("*"))
        self.outcome.violations = [f"{self.name}: {violation}" for violation in self.outcome.violations]

    def save(self) -> None:
        (self.folder / "outcome.json").write_text(json.dumps(asdict(self.outcome)))


def serve_until_over(job: str, supervisor: Path) -> None:
    """What the processes of a node do, in one: reconcile, claim, run, until nothing of the job is left."""
    from parquetry.schemas.errors import ParquetryError
    from parquetry.schemas.permit import Permit
    from parquetry.schemas.settings import settings
    from parquetry.tasks.broker.connection import connect
    from parquetry.tasks.ledger.ledger import Ledger
    from parquetry.tasks.node.serve import serve_shard
    from parquetry.tasks.reconciler import Reconciler
    from parquetry.tasks.shard.worker_config import WorkerConfig

    config = settings()
    config = WorkerConfig(
        worker=f"cell-{os.getpid()}",
        url=config.broker_url,
        env=config.env,
        queues=("default",),
        shards_in_flight=1,
        socket=supervisor,
        beat_s=config.beat_interval,
    )
    ledger, reconciler = None, None
    while True:
        try:
            ledger = ledger or Ledger(connect(config.url), config.env)
            reconciler = reconciler or Reconciler(ledger, config.url, 0.2)
            if ledger.status(job).state.is_final:
                return
            reconciler.reconcile()
            if not serve_shard(Permit(), config):
                time.sleep(0.1)
        except ParquetryError as error:
            logging.warning("%s", error)
            time.sleep(0.1)
