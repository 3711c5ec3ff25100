"""The work that running shards hold: what is kept and what is dropped of it when they are given back."""

from __future__ import annotations

from dataclasses import dataclass

from parquetry.schemas.progress.status import JobStatus


@dataclass(frozen=True, kw_only=True)
class WorkInFlight:
    """What the running shards of a job have computed and not committed, as of their last beats."""

    shards: int
    #: finished, and their prompt and output tokens
    rows: int
    tokens: int
    #: of rows that are not finished, and the time of a worker that they took
    unfinished_tokens: int
    unfinished_s: float

    @classmethod
    def of(cls, status: JobStatus) -> WorkInFlight:
        """Time is told by the tokens: as much of the job's working time as the part that they are of all tokens."""
        reused = status.reused_prompt_tokens + status.reused_output_tokens
        computed = status.computed_prompt_tokens + status.computed_output_tokens
        unfinished = max(0, computed - status.prompt_tokens - status.output_tokens - status.running_tokens)
        return cls(
            shards=status.shards_running,
            rows=status.running_rows,
            tokens=status.running_tokens,
            unfinished_tokens=unfinished,
            unfinished_s=status.worker_seconds * unfinished / max(computed - reused, 1),
        )
