"""Whole jobs for tests of the runner: an input table, an output folder, and an engine that echoes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from parquetry.producers.submission import prepare
from parquetry.schemas.location import Location
from parquetry.schemas.manifest import JOB_FILE, JobRecord
from parquetry.schemas.spec.job import JobSpec
from parquetry.schemas.storage.opening import open_storage
from parquetry.schemas.storage.storage import Storage
from parquetry.tasks.ledger.ledger import Ledger
from tests.chaos.input_table import write_model, write_table

ENGINE = "tests.chaos.echo_engine:open_engine"


@dataclass(frozen=True)
class DiskJob:
    """A job whose `_job.json` is written and which the ledger knows."""

    record: JobRecord
    storage: Storage
    table: Path

    @property
    def name(self) -> str:
        return self.record.job

    def parts(self) -> list[str]:
        return [entry.path for entry in self.storage.list("part-")]

    def rows(self) -> list[int]:
        """The `row` column of all parts in order of their names."""
        return [row for name in self.parts() for row in self.column(name, "row")]

    def column(self, part: str, column: str) -> list[Any]:
        with self.storage.open(part) as file:
            return pq.read_table(file)[column].to_pylist()


def make_job(
    folder: Path,
    ledger: Ledger,
    *,
    rows: int = 30,
    rows_per_shard: int = 10,
    spells: Mapping[int, str] | None = None,
    model: Path | None = None,
    **sections: Any,
) -> DiskJob:
    """Write table and `_job.json`, and register the job. Jobs with one `model` share an engine."""
    spec = {
        "task": "generate",
        "input": {"path": str(write_table(folder / "in.parquet", rows, spells))},
        "output": {"path": str(folder / "out")},
        "model": {"id": str(write_model(model or folder / "model"))},
        "prompt": {"template": "{{ text }}", "chat": False},
        "generation": {"max_new_tokens": 16},
        "shards": {"rows": rows_per_shard},
    }
    record = prepare(JobSpec.parse(spec | sections))
    storage = open_storage(Location.parse(record.spec.output.path))
    storage.put(JOB_FILE, record.model_dump_json().encode())
    ledger.register(record)
    return DiskJob(record, storage, folder / "in.parquet")
