"""Jobs and parts for tests of the ledger, which never looks into a file."""

from __future__ import annotations

import threading
from collections.abc import Callable

from parquetry.schemas.manifest import JobRecord, PartRecord
from parquetry.schemas.shard import InputFile, ShardPlan, part_name
from parquetry.schemas.spec.job import JobSpec


def make_record(
    job: str = "job-1",
    *,
    shards: int = 4,
    rows: int = 10,
    priority: int = 5,
    model: str = "m",
    quantization: str = "none",
    output: str = "/out",
    **more: object,
) -> JobRecord:
    """A job of `shards` shards with `rows` rows each, over a file that need not exist."""
    spec = JobSpec.parse(
        {
            "task": "embed",
            "input": {"path": "/in.parquet"},
            "output": {"path": output},
            "model": {"id": model, "quantization": quantization},
            "priority": priority,
            **more,
        }
    )
    file = InputFile(path="/in.parquet", num_rows=shards * rows, size=1, etag="e")
    plan = ShardPlan(files=(file,), bounds=tuple(range(0, shards * rows + 1, rows)))
    return JobRecord(job=job, created="2026-01-01T00:00:00Z", spec=spec, model_path=f"/models/{model}", shard_plan=plan)


def make_part(shard: int, *, fence: int = 1, rows: int = 10, error_rows: int = 0, **more: object) -> PartRecord:
    """A committed part as the ledger counts it."""
    return PartRecord(
        path=part_name(shard),
        shard=shard,
        fence=fence,
        rows=rows,
        error_rows=error_rows,
        size=100,
        sha256=f"{shard + 1:064x}",
        etag="x",
        **more,
    )


def in_threads(work: Callable[[], object], count: int) -> None:
    """Call `work` in `count` threads at once, and wait for them."""
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
