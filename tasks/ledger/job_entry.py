"""A job as the ledger keeps it: the fields of its ctl hash, written at registration and read back as JobStatus."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from parquetry.schemas.job import JobSpec
from parquetry.schemas.location import Location
from parquetry.schemas.manifest import JobRecord, PartRecord
from parquetry.schemas.states import JobState
from parquetry.schemas.status import JobStatus, ShardFailure
from parquetry.workers.engine_spec import EngineSpec

#: how many failures a status carries
MAX_FAILURES = 50


def queue_of(spec: JobSpec) -> str:
    """The queue whose workers can run the job: Optimum needs an environment of its own."""
    return "optimum" if spec.model.backend == "optimum" else "default"


def ctl_fields(record: JobRecord, queue: str, done: Sequence[PartRecord]) -> dict[str, Any]:
    """What registration writes; state and times are added on the server."""
    return {
        "task": record.spec.task,
        "model": record.spec.model.id,
        "model_key": EngineSpec.of(record).model_key,
        "output": str(Location.parse(record.spec.output.path)),
        "queue": queue,
        "priority": record.spec.priority,
        "notify": "\n".join(record.spec.notify),
        "shards": record.shard_plan.num_shards,
        "rows": record.shard_plan.num_rows,
        "done": len(done),
        "rows_done": sum(part.rows for part in done),
        "error_rows": sum(part.error_rows for part in done),
        "prompt_tokens": sum(part.prompt_tokens for part in done),
        "output_tokens": sum(part.output_tokens for part in done),
    }


def pairs(flat: Iterable[Any]) -> dict[str, Any]:
    """Field, value, field, value ... as a dict."""
    items = iter(flat)
    return dict(zip(items, items, strict=True))


def read_status(job: str, reply: list[Any]) -> JobStatus:
    """The reply of status.lua as a JobStatus."""
    now, running, failed, rows, tokens, flat, failures = reply
    ctl = pairs(flat)
    shards, done = int(ctl["shards"]), int(ctl["done"])
    return JobStatus(
        job=job,
        state=JobState(ctl["state"]),
        **{name: ctl[name] for name in ("task", "model", "output", "queue")},
        **{name: int(ctl[name]) for name in ("priority", "rows", "rows_done", "error_rows", "retries")},
        **{name: int(ctl[name]) for name in ("prompt_tokens", "output_tokens")},
        created=int(ctl["created"]) / 1000,
        now=now / 1000,
        ended=int(ctl["ended"]) / 1000 if "ended" in ctl else None,
        shards=shards,
        shards_done=done,
        shards_running=running,
        shards_failed=failed,
        shards_pending=max(0, shards - done - running - failed),
        running_rows=rows,
        running_tokens=tokens,
        failures=tuple(_failure(shard, text) for shard, text in pairs(failures).items()),
    )


def _failure(shard: str, text: str) -> ShardFailure:
    attempts, _, reason = text.partition(":")
    return ShardFailure(shard=int(shard), attempts=int(attempts), reason=reason)
