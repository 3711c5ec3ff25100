"""How much work a job is, from the rows that are finished: its size in output tokens, prompts weighed by their cost."""

from __future__ import annotations

from dataclasses import dataclass

from parquetry.schemas.progress.status import JobStatus

#: finished rows that are evidence of what the others will take, or this part of all rows where that is less
ENOUGH_ROWS = 8
ENOUGH_SHARE = 0.04


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Work done and work in all, in output tokens; of rows where no tokens are counted."""

    done: float
    total: float
    #: of one row on average: its output
    row_output: float
    #: finished rows it was estimated from
    rows_seen: int
    #: whether they are enough to tell of the others
    is_evident: bool

    @classmethod
    def of(cls, status: JobStatus, ratio: float, rows_running: int = 0) -> Workload:
        """`ratio` is the cost of a prompt token in output tokens; engines compute `rows_running` rows now."""
        rows = finished_rows(status)
        if not status.computed_prompt_tokens + status.computed_output_tokens:
            return cls(
                done=rows, total=status.rows, row_output=0.0, rows_seen=rows, is_evident=_is_enough(rows, status.rows)
            )
        outputs = _row_output(status, rows)
        prompt = (status.prompt_tokens + _running_prompt(status)) / max(rows, 1)
        done = ratio * status.computed_prompt_tokens + status.computed_output_tokens
        is_over = rows >= status.rows
        left = 0.0 if is_over else _left(status, done, ratio * prompt, outputs, rows_running)
        return cls(
            done=done,
            total=done + left,
            row_output=outputs,
            rows_seen=rows,
            is_evident=is_over or _is_enough(rows, status.rows),
        )

    @property
    def left(self) -> float:
        return self.total - self.done


def finished_rows(status: JobStatus) -> int:
    """Committed rows and those finished inside running shards."""
    return min(status.rows, status.rows_done + status.running_rows)


def _is_enough(rows: int, total: int) -> bool:
    return rows >= min(ENOUGH_ROWS, max(1.0, ENOUGH_SHARE * total))


def _running_prompt(status: JobStatus) -> int:
    return status.running_tokens - status.running_output_tokens


def spread_of_outputs(row_output: float, status: JobStatus) -> float:
    """Between 0, where all outputs reach their limit and so are of one length, and 1, where lengths have no memory."""
    return 1.0 - min(1.0, row_output / status.max_output_tokens) if status.max_output_tokens else 1.0


def _left(status: JobStatus, done: float, prompt: float, outputs: float, rows_running: int) -> float:
    """Work of the rows that are not finished, each of `prompt` and `outputs` on average."""
    unfinished = status.rows - finished_rows(status)
    running = min(rows_running, unfinished)
    if not running or not outputs:
        return max(0.0, (prompt + outputs) * status.rows - done)
    begun = max(0, status.computed_output_tokens - status.output_tokens - status.running_output_tokens) / running
    spread = spread_of_outputs(outputs, status)
    # outputs without memory have as much before them however long they are; those of one length have the rest
    rest = spread * outputs + (1 - spread) * max(0.0, outputs - begun)
    return (unfinished - running) * (prompt + outputs) + running * rest


def _row_output(status: JobStatus, rows: int) -> float:
    """Mean output tokens of a row: of committed shards by what they have, of the others by what these are likely to.

    Short rows finish first, so those that are finished in running shards tell too little of the others there.
    """
    if not rows:
        return 0.0
    of_running = status.row_output or status.running_output_tokens / max(status.running_rows, 1)
    if not status.shards_running or not of_running:
        return status.output_tokens / max(status.rows_done, 1)
    begun = status.shards_running * status.rows / max(status.shards, 1)
    return (status.output_tokens + begun * of_running) / (status.rows_done + begun)
