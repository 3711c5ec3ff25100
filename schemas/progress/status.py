"""What reading commands show of a job and of a worker."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from parquetry.schemas.progress.histogram import SHARD_SECONDS
from parquetry.schemas.progress.history import HistoryPoint
from parquetry.schemas.progress.prediction import Prediction
from parquetry.schemas.progress.states import EnginePhase, JobState


class ShardFailure(BaseModel):
    """Why a shard failed."""

    model_config = ConfigDict(frozen=True)

    shard: int
    attempts: int
    reason: str


class JobStatus(BaseModel):
    """One job's numbers at one moment. Counts are of committed work, except those named running or computed."""

    model_config = ConfigDict(frozen=True)

    job: str
    #: as its spec calls it, may be empty
    name: str = ""
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
    #: why the job as a whole was ended as failed, where no shard is to blame
    refusal: str | None = None
    shards: int
    shards_pending: int
    shards_running: int
    shards_done: int
    shards_failed: int
    #: of those that are not done: shards whose part is there, and whose error rows are computed anew
    shards_due: int = 0
    rows: int
    rows_done: int
    error_rows: int
    #: rows finished inside running shards, as of their last beat
    running_rows: int = 0
    running_error_rows: int = 0
    #: prompt and output tokens of those rows
    running_tokens: int = 0
    running_output_tokens: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    #: by engines, for committed rows, rows of running shards, and rows that are not finished
    computed_prompt_tokens: int = 0
    computed_output_tokens: int = 0
    #: rows of committed and of running shards that a later attempt took from seals, and their tokens
    reused_rows: int = 0
    reused_prompt_tokens: int = 0
    reused_output_tokens: int = 0
    #: most tokens that one row's outputs may have together; 0 for a task that writes nothing
    max_output_tokens: int = 0
    #: output tokens that a row of the running shards is likely to have, 0 while nothing tells
    row_output: float = 0.0
    #: running shards that have their engine
    shards_computing: int = 0
    #: shards that each worker holds
    workers: dict[str, int] = {}
    #: time in which at least one worker computed, and the sum of it over workers
    active_seconds: float = 0.0
    worker_seconds: float = 0.0
    #: time of cards that workers kept for the job, the loading of its model included; what it may be, and its price
    gpu_seconds: float = 0.0
    budget_gpu_seconds: float | None = None
    price_per_gpu_hour: float | None = None
    #: "budget" where it was paused since that is spent
    why: str = ""
    #: packages and card that a worker must have, see workers/engine_needs.py
    needs: tuple[str, ...] = ()
    #: kind of worker -> why it cannot run the job
    declined: dict[str, str] = {}
    #: of its record
    version: int = 0
    #: what the engine must be
    backend: str = "auto"
    quantization: str = "none"
    attention: str = "auto"
    #: attempts beyond the first of a shard
    retries: int = 0
    #: why the broker's record of it cannot be read; nothing else here says anything then
    damage: str | None = None
    failures: tuple[ShardFailure, ...] = ()
    #: error rows by what is wrong with them, numbers aside; not all kinds where there are many
    errors: dict[str, int] = {}
    #: of committed shards, from the first row read to the last one written; what of it was preparing and writing rows
    shard_seconds: float = 0.0
    prepare_seconds: float = 0.0
    write_seconds: float = 0.0
    #: committed shards by how long they took, see SHARD_SECONDS
    shard_durations: tuple[int, ...] = (0,) * SHARD_SECONDS.num_buckets
    #: by its plan, or from an earlier job
    prediction: Prediction | None = None
    #: about a minute of work ago, for present rates
    earlier: HistoryPoint | None = Field(None, exclude=True)


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
    #: of these, the ones that were one new token of an output
    decode_tokens: int = 0
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
    #: steps taken, and how many of them took how long, see STEP_SECONDS
    steps: int = 0
    step_durations: tuple[int, ...] = ()

    @property
    def written_tokens(self) -> int:
        """Output tokens computed, of unfinished answers too where the engine tells of them."""
        return self.decode_tokens or self.output_tokens

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


class EngineState(BaseModel):
    """What a worker's engine is doing, and on which model."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    phase: EnginePhase = EnginePhase.IDLE
    #: in this phase, as of the worker's sign of life
    seconds: float = 0.0
    #: folder, or hub id, of the model that is loaded or being loaded
    model: str | None = None
    #: as the job asks for them
    backend: str = "auto"
    quantization: str = "none"
    attention: str = "auto"
    #: of its weight files, None where they are not on this machine's disk yet
    weight_bytes: int | None = None
    #: why the last engine could not be, until another one is ready
    problem: str | None = None


class DeviceUse(BaseModel):
    """What a worker's devices are doing, as their driver tells: the mean use, and the sums of memory."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    #: name of the card
    name: str | None = None
    #: share of the last second or so in which a kernel ran, 0 to 1
    use: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None


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
    #: the same some seconds earlier, for present rates
    engine_before: EngineStats | None = None
    state: EngineState = EngineState()
    #: packages and card that it has, as `EngineSpec` needs name them; None of a worker that serves whatever comes
    offers: tuple[str, ...] | None = None
    #: None on a CPU, and where the driver tells nothing
    device_use: DeviceUse | None = None
    #: it was asked to take no more shards, and finishes those that it has
    drained: bool = False
    #: the same of workers that are alike: what one cannot run is not for the others
    kind: str = ""
    #: version of records up to which it reads them, 0 where it does not say
    reads: int = 0
