"""What reading commands show of a job and of a worker."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

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
    #: seconds since the Unix epoch, Redis clock
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


class EngineStats(BaseModel):
    """What an engine has counted since it was ready, and what it holds now. All begin anew with another engine."""

    # an engine may count more than is shown
    model_config = ConfigDict(frozen=True, extra="ignore")

    #: since it was ready
    seconds: float = 0.0
    #: of these, the ones spent in its steps; the rest it waited for rows
    busy_seconds: float = 0.0
    #: of prompts that have their answer; of texts, when they are given to the device
    prompt_tokens: int = 0
    #: of finished answers
    output_tokens: int = 0
    #: positions that the model computed for a row: without what a cached prefix saved, with what was computed again
    computed_tokens: int = 0
    #: positions that the model computed for no row
    padding_tokens: int = 0
    #: prompt tokens that a cached prefix saved
    cached_tokens: int = 0
    #: times a sequence gave its cache blocks away, to be computed again
    preemptions: int = 0
    #: times the device ran out of memory, and the batch was made smaller
    out_of_memory: int = 0
    #: requests that are being computed
    running: int = 0
    #: requests that the engine holds and has not begun
    waiting: int = 0
    #: blocks of the KV cache that sequences hold, of all that there are, 0 to 1; None for an engine without blocks
    kv_use: float | None = None

    #: sentences on what the engine had to do without, and what that costs; short enough for a message of the pulse
    slowed_by: tuple[str, ...] = Field(default=(), max_length=4)

    @property
    def padding_share(self) -> float:
        """Positions that were for no row, of all that were computed, 0 to 1."""
        return self.padding_tokens / max(self.padding_tokens + self.computed_tokens, 1)

    @property
    def cached_share(self) -> float:
        """Prompt tokens that cached prefixes saved, of all there were, 0 to 1."""
        return min(self.cached_tokens / max(self.prompt_tokens, 1), 1.0)

    @property
    def busy_share(self) -> float:
        """Time that the engine was not waiting for rows, of all it had, 0 to 1."""
        return self.busy_seconds / self.seconds if self.seconds else 0.0


class WorkerStatus(BaseModel):
    """One live worker, as of its last sign of life."""

    model_config = ConfigDict(frozen=True)

    worker: str
    host: str
    device: str
    queue: str
    #: how many it runs at once
    shards_in_flight: int
    model: str | None = None
    #: seconds since the Unix epoch of its last sign of life, Redis clock
    seen: float
    #: of the engine that is loaded, None while there is none or it tells nothing yet
    engine: EngineStats | None = None
