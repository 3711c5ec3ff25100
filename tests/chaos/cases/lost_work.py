"""T23: one long shard is paused, drained and killed at random moments; how much of its work is done twice."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

from tests.chaos.arena import Arena
from tests.chaos.echo_engine import rows_begun
from tests.chaos.job import Job
from tests.chaos.process import wait_until
from tests.chaos.report import Outcome

MS_PER_ROW = 20.0
#: (rows of the shard, rounds of one fault of each kind, seconds between two faults)
SIZES = {"short": (4_500, 1, (15.0, 25.0)), "long": (30_000, 3, (25.0, 60.0))}
MAX_LOST_S = 15.0
GRACE_S = 30.0


def run(profile: str, seed: int, folder: Path) -> list[Outcome]:
    rows, rounds, pauses_s = SIZES[profile]
    draw = random.Random(seed)
    with Arena(folder, ms_per_row=MS_PER_ROW, drain_seconds=1.0) as arena:
        job = arena.job(rows, rows)
        arena.start_worker(in_flight=1)
        lost: dict[str, list[float]] = {}
        for _ in range(rounds):
            for name, fault in FAULTS.items():
                lost.setdefault(name, []).append(_strike(arena, job, fault, draw.uniform(*pauses_s)))
        job.wait_for_end(2 * rows * MS_PER_ROW / 1000 + 60)
        return [_outcome(job, name, rows, seconds) for name, seconds in lost.items()]


def _strike(arena: Arena, job: Job, fault: Callable[[Arena, Job], None], after_s: float) -> float:
    """Let the shard run for so long, interrupt it, and wait until all it has lost is begun again: the seconds of it."""
    before = len(set(rows_begun(job.log)))
    wait_until(lambda: len(set(rows_begun(job.log))) > before, 60.0, "the shard to go on")
    time.sleep(after_s)
    fault(arena, job)
    begun = rows_begun(job.log)
    # what was lost comes first: when a new row is begun, all of it has been
    wait_until(lambda: len(set(rows_begun(job.log))) > len(set(begun)), 120.0, "new rows")
    again = rows_begun(job.log)
    twice = (len(again) - len(set(again))) - (len(begun) - len(set(begun)))
    return twice * MS_PER_ROW / 1000


def _pause(arena: Arena, job: Job) -> None:
    arena.command("pause", job.id)
    wait_until(lambda: not arena.held_by(job, arena.workers[0]), 30.0, "the shard to be given back")
    arena.command("resume", job.id)


def _drain(arena: Arena, job: Job) -> None:
    worker = arena.workers.pop()
    worker.stop(GRACE_S)
    arena.start_worker(in_flight=1)


def _kill(arena: Arena, job: Job) -> None:
    arena.kill_worker(arena.workers[0])
    arena.start_worker(in_flight=1)


FAULTS: dict[str, Callable[[Arena, Job], None]] = {"pause": _pause, "drain": _drain, "kill -9": _kill}


def _outcome(job: Job, name: str, rows: int, lost_s: list[float]) -> Outcome:
    whole_s = rows * MS_PER_ROW / 1000
    lost = f"{max(lost_s):.1f} s of work lost"
    outcome = Outcome(fault=f"T23 {name} in a shard of {whole_s:.0f} s: {lost}", injected=len(lost_s))
    job.judge(outcome)
    outcome.note = f"lost {', '.join(f'{seconds:.1f}' for seconds in lost_s)} s"
    outcome.require(max(lost_s) <= MAX_LOST_S, f"{name}: {lost}")
    return outcome
