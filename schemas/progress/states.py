"""The states of jobs and shards, and which states of a job may follow which."""

from __future__ import annotations

from enum import StrEnum


class JobState(StrEnum):
    """A job is registered as running and ends as done, failed or cancelled."""

    RUNNING = "running"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    #: every shard committed, `_SUCCESS` written
    DONE = "done"
    #: nothing left to run, or no engine can do it; at least one shard failed, and `retry` starts it again
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        """No worker will touch the job unless somebody retries or resumes it."""
        return self in (JobState.CANCELLED, JobState.DONE, JobState.FAILED)


class JobPhase(StrEnum):
    """What a job waits for, or how it ended: what a reader wants to know, where a state is what a worker must know."""

    #: no worker has a shard of it yet, or any more
    QUEUED = "queued"
    #: an engine's process starts for it
    STARTING = "starting"
    #: its model is being loaded
    LOADING = "loading"
    RUNNING = "running"
    #: nobody can go on with it unless somebody does something
    STALLED = "stalled"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class EnginePhase(StrEnum):
    """What a worker's engine is doing."""

    #: there is none; the next shard brings one
    IDLE = "idle"
    #: its process starts and imports its libraries
    STARTING = "starting"
    #: it reads weights, compiles and checks itself
    LOADING = "loading"
    READY = "ready"


class ShardState(StrEnum):
    """A shard waits, is leased to one worker, and ends committed or failed."""

    PENDING = "pending"
    LEASED = "leased"
    COMMITTED = "committed"
    FAILED = "failed"


JOB_TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.RUNNING: frozenset({JobState.PAUSED, JobState.CANCELLED, JobState.DONE, JobState.FAILED}),
    JobState.PAUSED: frozenset({JobState.RUNNING, JobState.CANCELLED, JobState.DONE, JobState.FAILED}),
    # a cancelled job keeps its committed parts and may be taken up again
    JobState.CANCELLED: frozenset({JobState.RUNNING}),
    JobState.FAILED: frozenset({JobState.RUNNING, JobState.CANCELLED}),
    JobState.DONE: frozenset(),
}


def may_become(state: JobState, wanted: JobState) -> bool:
    """Whether a job in `state` may be put into `wanted`."""
    return wanted in JOB_TRANSITIONS[state]
