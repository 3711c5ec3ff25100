"""What reading commands show of a job and of a worker."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from parquetry.schemas.states import JobState


class ShardFailure(BaseModel):
    """Why a shard failed."""

    model_config = ConfigDict(frozen=True)

    shard: int
    attempts: int
    reason: str


class JobStatus(BaseModel):
    """One job's numbers at one moment. Counts are of committed work, except `running_rows`."""

    model_config = ConfigDict(frozen=True)

    job: str
    state: JobState
    task: str
    model: str
    output: str
    queue: str
    priority: int
    #: seconds since the epoch, Redis clock
    created: float
    #: Redis clock now
    now: float
    #: when the job reached a final state
    ended: float | None = None
    shards: int
    shards_pending: int
    shards_running: int
    shards_done: int
    shards_failed: int
    rows: int
    rows_done: int
    error_rows: int
    #: rows finished inside running shards, as of their last beat
    running_rows: int = 0
    #: prompt and output tokens of those rows
    running_tokens: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    #: attempts beyond the first of a shard
    retries: int = 0
    failures: tuple[ShardFailure, ...] = ()


class WorkerStatus(BaseModel):
    """One live worker slot, as of its last beat."""

    model_config = ConfigDict(frozen=True)

    worker: str
    host: str
    device: str
    queue: str
    #: shards it may run at once
    slots: int
    model: str | None = None
    #: seconds since the epoch of its last sign of life, Redis clock
    seen: float
