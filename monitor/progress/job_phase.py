"""What a job is doing and what it waits for, from its numbers and the roster. Pure: its clock is that of the status."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from parquetry.schemas.progress.states import EnginePhase, JobPhase, JobState
from parquetry.schemas.progress.status import EngineState, JobStatus, WorkerStatus
from parquetry.schemas.spec.budget import budget_text
from parquetry.tasks.wanted_worker import to_start

#: a worker may take so long to announce itself before its absence is worth a word
PATIENCE_S = 20.0
REBUILD = "`parquetry recover OUTPUT` rebuilds it from its output folder"


@dataclass(frozen=True)
class PhaseNow:
    """A phase, why, and for how long where that is known."""

    phase: JobPhase
    #: what is waited for, what is read, what to do; empty where the phase says it all
    reason: str = ""
    seconds: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @property
    def text(self) -> str:
        """The phase with its reason, on one line."""
        return f"{self.phase}: {self.reason}" if self.reason else self.phase.value


def job_phase(status: JobStatus, workers: Sequence[WorkerStatus]) -> PhaseNow:
    """The phase of a job; `workers` are the living ones."""
    if status.damage is not None:
        return PhaseNow(JobPhase.FAILED, f"its record in the broker is damaged ({status.damage}); {REBUILD}")
    if status.state is not JobState.RUNNING:
        return PhaseNow(JobPhase(status.state.value), status.refusal or _spent(status) or _left_behind(status))
    if status.shards_running:
        return _with_shards(status, workers)
    if not status.shards_pending:
        return PhaseNow(JobPhase.RUNNING, "writes its manifest")
    return _without_shards(status, workers)


def _spent(status: JobStatus) -> str:
    if status.why != "budget":
        return ""
    return f"its budget of {budget_text(status)} is spent; `parquetry resume --set budget...` goes on with a larger one"


def _left_behind(status: JobStatus) -> str:
    """What a job that is not running has not ended."""
    if not status.shards_due:
        return ""
    shards = "1 shard" if status.shards_due == 1 else f"{status.shards_due:,} shards"
    how = "retry" if status.state is JobState.FAILED else "resume"
    return f"every row is there; the error rows of {shards} were to be computed anew, and are with `parquetry {how}`"


def _with_shards(status: JobStatus, workers: Sequence[WorkerStatus]) -> PhaseNow:
    holders = [worker for worker in workers if worker.worker in status.workers]
    if not holders:
        count = len(status.workers)
        who = "the worker of its running shards is" if count == 1 else f"the {count} workers of its running shards are"
        return PhaseNow(JobPhase.STALLED, f"{who} silent; the shards are free again when their leases end")
    if status.shards_computing:
        return PhaseNow(JobPhase.RUNNING)
    return min((_of_engine(status, worker) for worker in holders), key=lambda found: _NEARNESS.index(found.phase))


#: the worker that is nearest to work speaks for the job
_NEARNESS = (JobPhase.RUNNING, JobPhase.LOADING, JobPhase.STARTING, JobPhase.STALLED)


def _of_engine(status: JobStatus, worker: WorkerStatus) -> PhaseNow:
    """The phase of a job whose shard this worker holds, without an engine for it yet."""
    state, since = worker.state, max(0.0, status.now - worker.seen) + worker.state.seconds
    if state.phase is EnginePhase.LOADING:
        return PhaseNow(JobPhase.LOADING, f"reads {loaded_text(state)} on {worker.device}", since)
    if state.phase is EnginePhase.STARTING:
        return PhaseNow(JobPhase.STARTING, f"an engine starts on {worker.device}", since)
    if state.phase is EnginePhase.READY and worker.model == status.model:
        return PhaseNow(JobPhase.RUNNING, "reads its first rows")
    if state.problem is not None:
        return PhaseNow(JobPhase.STALLED, f"the engine of {worker.worker} ended: {state.problem}")
    return PhaseNow(JobPhase.STARTING, f"waits for the engine of {worker.worker}")


def loaded_text(state: EngineState) -> str:
    """What an engine loads: the model, its size, the back end."""
    facts = [_size(state.weight_bytes)] if state.weight_bytes else []
    facts += [f"back end {state.backend}"] if state.backend != "auto" else []
    facts += [state.quantization] if state.quantization != "none" else []
    name = (state.model or "a model").rstrip("/").rpartition("/")[2]
    return f"{name} ({', '.join(facts)})" if facts else name


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.2g} MB"


def _without_shards(status: JobStatus, workers: Sequence[WorkerStatus]) -> PhaseNow:
    there = [worker for worker in workers if status.queue in worker.queue.split(",")]
    serving = [worker for worker in there if not worker.drained]
    if there and not serving:
        return PhaseNow(JobPhase.STALLED, f"every worker of queue {status.queue} is drained; let one go on, or add one")
    if not serving:
        return _unserved(status)
    able = [worker for worker in serving if not _hindrance(status, worker)]
    if not able:
        why = "; ".join(dict.fromkeys(f"{worker.worker} {_hindrance(status, worker)}" for worker in serving[:3]))
        way = f"; {to_start(status.needs)}" if status.needs and not status.declined else ""
        return PhaseNow(JobPhase.STALLED, f"no worker of queue {status.queue} can serve it: {why}{way}")
    if problem := next((worker.state.problem for worker in able if worker.state.problem), None):
        return PhaseNow(JobPhase.QUEUED, f"its shards rest after a fault: {problem}")
    count = "the worker" if len(able) == 1 else f"one of {len(able)} workers"
    return PhaseNow(JobPhase.QUEUED, f"waits for {count} of queue {status.queue}", status.now - status.created)


def _unserved(status: JobStatus) -> PhaseNow:
    waited = status.now - status.created
    if waited < PATIENCE_S:
        return PhaseNow(JobPhase.QUEUED, f"waits for a worker of queue {status.queue}", waited)
    command = f"`parquetry worker --queues {status.queue}` starts one"
    return PhaseNow(JobPhase.STALLED, f"no live worker serves queue {status.queue}; {command}")


def _hindrance(status: JobStatus, worker: WorkerStatus) -> str:
    """What keeps a worker from running the job, as the end of a sentence; empty where nothing does."""
    if worker.reads and status.version > worker.reads:
        return f"reads records up to version {worker.reads}, and the job's is of version {status.version}"
    if worker.kind in status.declined:
        return f"cannot run it ({status.declined[worker.kind].rstrip('.')})"
    lacks = [need for need in status.needs if worker.offers is not None and need not in worker.offers]
    return f"lacks {', '.join(lacks)}" if lacks else ""
