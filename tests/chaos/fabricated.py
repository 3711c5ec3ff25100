"""Jobs of two committed-to-be shards, made without running anything: for races at the end of a job."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from schemas.job import JobSpec
from schemas.manifest import JOB_FILE, JobRecord, PartRecord
from schemas.shard import InputFile, ShardPlan, part_name
from tasks.claim import Claim
from tasks.ledger import Ledger

ROWS = 4


def fabricate(folder: Path, ledger: Ledger, number: int) -> tuple[str, list[Claim], list[PartRecord]]:
    """Register a job, publish two stand-ins for its parts, and claim both shards."""
    output = folder / f"fabricated-{number}"
    output.mkdir()
    record = _record(folder, output, number)
    (output / JOB_FILE).write_text(record.model_dump_json())
    ledger.register(record)
    claims = [ledger.claim(f"racer-{i}", ("default",)) for i in range(2)]
    return record.job, claims, [_part(output, claim) for claim in claims]


def _record(folder: Path, output: Path, number: int) -> JobRecord:
    source = InputFile(path=str(folder / "none.parquet"), num_rows=ROWS, size=1, etag="1")
    spec = {
        "task": "generate",
        "input": {"path": source.path},
        "output": {"path": str(output)},
        "model": {"id": str(folder / "model")},
        "prompt": {"template": "x"},
    }
    return JobRecord(
        job=f"generate-{number:012x}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        spec=JobSpec.parse(spec),
        model_path=str(folder / "model"),
        plan=ShardPlan(files=(source,), bounds=(0, ROWS // 2, ROWS)),
    )


def _part(output: Path, claim: Claim) -> PartRecord:
    path = output / part_name(claim.shard)
    path.write_bytes(b"stand-in")
    common = {"rows": ROWS // 2, "error_rows": 0, "size": 8, "sha256": f"{claim.shard + 1:064x}", "etag": ""}
    return PartRecord(path=path.name, shard=claim.shard, fence=claim.fence, **common)
