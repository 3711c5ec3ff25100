"""Jobs of two committed-to-be shards, made without running anything: for races at the end of a job."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from parquetry.schemas.manifest import JOB_FILE, JobRecord, PartRecord, job_id
from parquetry.schemas.shard import InputFile, ShardPlan, part_name
from parquetry.schemas.spec.job import JobSpec
from parquetry.tasks.ledger.claim import Claim
from parquetry.tasks.ledger.ledger import Ledger

ROWS = 4
_CONTENT = b"stand-in"


def fabricate(folder: Path, ledger: Ledger, number: int) -> tuple[str, list[Claim], list[PartRecord]]:
    """Register a job, publish two stand-ins for its parts, and claim both shards."""
    output = folder / f"fabricated-{number}"
    output.mkdir()
    record = stand_in_record(folder, output, "any")
    record = record.model_copy(update={"job": job_id(record.spec)})
    (output / JOB_FILE).write_text(record.model_dump_json())
    ledger.register(record)
    claims = [ledger.claim(f"racer-{i}", ("default",)) for i in range(2)]
    for claim in claims:
        (output / part_name(claim.shard)).write_bytes(_CONTENT)
    return record.job, claims, [stand_in(claim, rows=ROWS // 2) for claim in claims]


def stand_in_record(folder: Path, output: Path, job: str, *, priority: int = 5, model: str = "model") -> JobRecord:
    """A job of two shards over a table that nobody will read."""
    source = InputFile(path=str(folder / "none.parquet"), num_rows=ROWS, size=1, etag="1")
    spec = {
        "task": "generate",
        "input": {"path": source.path},
        "output": {"path": str(output)},
        "model": {"id": model},
        "prompt": {"template": "x"},
        "priority": priority,
    }
    return JobRecord(
        job=job,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        spec=JobSpec.parse(spec),
        model_path=str(folder / model),
        shard_plan=ShardPlan(files=(source,), bounds=(0, ROWS // 2, ROWS)),
    )


def stand_in(claim: Claim, rows: int) -> PartRecord:
    """What a runner would report of a part, had it made one."""
    common = {"rows": rows, "error_rows": 0, "size": len(_CONTENT), "sha256": f"{claim.shard + 1:064x}", "etag": ""}
    return PartRecord(path=part_name(claim.shard), shard=claim.shard, fence=claim.fence, **common)
