"""Job records over files a test wrote, and an engine client without a process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from parquetry.producers.inputs.inputs import find_inputs
from parquetry.schemas.manifest import JobRecord
from parquetry.schemas.shard import InputFile, ShardPlan
from parquetry.schemas.spec.columns import schema_text
from parquetry.schemas.spec.job import InputSpec, JobSpec
from parquetry.workers.engine import Engine
from parquetry.workers.request import Request, Result, UnderWay
from parquetry.workers.shards.reader import read_columns


def input_file(path: Path, format: str = "auto", **partitions: str | None) -> InputFile:
    """The file as it is now."""
    (found,) = find_inputs(InputSpec.model_validate({"path": str(path), "format": format})).files
    return found.model_copy(update={"partitions": partitions})


def make_record(files: Sequence[Path | InputFile], *, rows_per_shard: int = 10**9, **spec: Any) -> JobRecord:
    """A job over these files, cut every `rows_per_shard` rows."""
    format = spec.get("input", {}).get("format", "auto")
    infos = tuple(file if isinstance(file, InputFile) else input_file(file, format) for file in files)
    rows = sum(info.num_rows for info in infos)
    bounds = (*range(0, rows, rows_per_shard), rows)
    base = {
        "task": "generate",
        "output": {"path": "out"},
        "model": {"id": "none"},
        "prompt": {"template": "{{ text }}"} if format == "auto" else {},
    }
    parsed = JobSpec.parse({**base, **spec, "input": {"path": infos[0].path, **spec.get("input", {})}})
    found = find_inputs(parsed.input.model_copy(update={"path": [info.path for info in infos]}))
    added = [pa.field(name, pa.string()) for name in infos[0].partitions if name not in found.schema.names]
    known = pa.schema([*found.schema, *added], metadata=found.schema.metadata)
    names = read_columns(parsed, known.names)
    return JobRecord(
        job="job-0123456789ab",
        created="2026-01-02T03:04:05+00:00",
        spec=parsed,
        model_path=parsed.model.id,
        shard_plan=ShardPlan(files=infos, bounds=bounds),
        input_schema=schema_text(pa.schema([known.field(name) for name in names], metadata=known.metadata)),
    )


def write_table(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    """A Parquet file."""
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path, **options)
    return path


class DirectClient:
    """Stands for an EngineClient: drives the engine in the caller's thread."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.cancelled: list[int] = []

    def submit(self, requests: Sequence[Request]) -> None:
        self.engine.add(requests)

    def results(self, timeout: float = 0.0) -> list[Result]:
        return self.engine.step() if self.engine.num_unfinished else []

    def under_way(self) -> Sequence[UnderWay]:
        return list(self.engine.under_way())

    def cancel(self, ids: Sequence[int]) -> None:
        self.cancelled += ids
        self.engine.cancel(ids)

    def describe(self) -> dict[str, str]:
        return self.engine.describe()
