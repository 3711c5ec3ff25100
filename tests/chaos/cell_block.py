"""What a block of cells shares: one server, one engine, perhaps an S3 server; and the sum of their outcomes."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Self

from parquetry.schemas.settings import settings
from tests.chaos.cell import Cell
from tests.chaos.forked import side_by_side
from tests.chaos.input_table import write_model
from tests.chaos.process import Process, wait_until
from tests.chaos.report import Outcome
from tests.chaos.s3_server import S3Server
from tests.chaos.server import Server

LANES = 12
HOST_LEASE_S = 4.0
#: imported before anything is forked: hundreds of workers then start in milliseconds, all with the same code
PRELOADED = (
    "parquetry.tasks.node.serve",
    "parquetry.tasks.reconciler",
    "parquetry.producers.submission",
    "parquetry.schemas.storage.local",
)


class CellBlock:
    """A context; `run` puts cells through a procedure, LANES at a time, each in a process of its own."""

    def __init__(self, folder: Path, *, s3: bool = False, ms_per_row: float = 2.0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        write_model(folder / "model")
        self.server = Server(folder / "redis")
        self.s3 = S3Server(folder) if s3 else None
        self._environment = {
            "PARQUETRY_ENGINE_FACTORY": "tests.chaos.echo_engine:open_engine",
            "PARQUETRY_LOG_LEVEL": "INFO",
            "CHAOS_MS_PER_ROW": str(ms_per_row),
        }
        command = [sys.executable, "-P", "-m", "tests.chaos.engine_host", str(folder / "device")]
        # for so long a stopped user keeps the engine from those who want another
        patience = {"PARQUETRY_LEASE_SECONDS": str(HOST_LEASE_S)}
        self._host = Process(command, folder / "engine.log", **self._environment, **patience)
        wait_until(lambda: (folder / "device" / "supervisor.sock").exists(), 20.0, "the engine supervisor")

    def __enter__(self) -> Self:
        os.environ.update(self._environment)
        settings.cache_clear()
        for module in PRELOADED:
            importlib.import_module(module)
        return self

    def __exit__(self, *error: object) -> None:
        self._host.kill()
        self.server.kill()
        if self.s3 is not None:
            self.s3.stop()

    def cell(self, name: str, *, s3: bool = False, spells: dict[int, str] | None = None, **options: object) -> Cell:
        supervisor = self.folder / "device" / "supervisor.sock"
        return Cell(name, self.folder, self.server, supervisor, self.s3 if s3 else None, spells or {}, options)

    def run(self, drivers: Iterable[Callable[[], None]]) -> list[Outcome]:
        """Every driver makes a cell, works it and saves its outcome; one that breaks is an outcome too."""
        ends = list(side_by_side(drivers, LANES, self.folder))
        outcomes = [Outcome(**json.loads(file.read_text())) for file in sorted(self.folder.glob("*/outcome.json"))]
        if len(outcomes) < len(ends):
            broken = Outcome(fault="drivers", injected=0)
            broken.violations.append(f"{len(ends) - len(outcomes)} cells did not come to an end; see {self.folder}")
            outcomes.append(broken)
        return outcomes


def total(fault: str, outcomes: list[Outcome]) -> Outcome:
    """One line for all of them."""
    slowest = [outcome.slowest_s for outcome in outcomes if outcome.slowest_s is not None]
    return Outcome(
        fault=fault,
        injected=sum(outcome.injected for outcome in outcomes),
        rows=sum(outcome.rows for outcome in outcomes),
        lost=sum(outcome.lost for outcome in outcomes),
        doubled=sum(outcome.doubled for outcome in outcomes),
        slowest_s=max(slowest, default=None),
        violations=[violation for outcome in outcomes for violation in outcome.violations],
    )
