"""T8: engines that are killed, crash, hang, run out of memory, and rows that kill whoever touches them."""

from __future__ import annotations

import time
from pathlib import Path

from tests.chaos.arena import Arena
from tests.chaos.job import Job
from tests.chaos.process import Process
from tests.chaos.report import Outcome

SHARD_ROWS = 20
STALL_S = 5.0
ROUNDS = {"short": 1, "long": 10}


def run(profile: str, seed: int, folder: Path) -> list[Outcome]:
    return [_passing_faults(folder / "passing", ROUNDS[profile]), _poison(folder / "poison")]


def _passing_faults(folder: Path, rounds: int) -> Outcome:
    """Each fault strikes once: the next attempt goes through."""
    words = ("KILL", "SEGV", "OOM", "HANG") * rounds
    spells = {45 + 100 * number: word for number, word in enumerate(words)}
    with Arena(folder, ms_per_row=2.0, engine_stall_seconds=STALL_S) as arena:
        job = arena.job(100 * len(words) + 100, SHARD_ROWS, spells=spells)
        worker = arena.start_worker()
        job.wait_for_commits(1)
        outcome = Outcome(fault="T8 engine killed, crashed, out of memory, hung", injected=len(words))
        outcome.slowest_s = _longest_pause(job, worker, outcome, timeout_s=60.0 + 15.0 * len(words))
        outcome.require(outcome.slowest_s <= 60.0, f"nothing was committed for {outcome.slowest_s:.1f} s")
        job.judge(outcome)
        outcome.recomputed = job.recomputed(SHARD_ROWS)
        # an engine's end costs what it had in flight: two shards
        outcome.require(outcome.recomputed <= 2 * len(words), f"{outcome.recomputed} shards recomputed")
        return outcome


def _poison(folder: Path) -> Outcome:
    """Two rows kill the engine whenever they are met: they become error rows, all others are answered."""
    spells = {47: "POISON", 230: "POISON"}
    with Arena(folder, ms_per_row=2.0) as arena:
        job = arena.job(400, SHARD_ROWS, spells=spells)
        worker = arena.start_worker()
        job.wait_for_commits(1)
        outcome = Outcome(fault="T8 two rows that kill the engine", injected=len(spells))
        outcome.slowest_s = _longest_pause(job, worker, outcome, timeout_s=150.0)
        findings = job.judge(outcome)
        outcome.require(findings.error_rows == len(spells), f"{findings.error_rows} error rows for {len(spells)}")
        return outcome


def _longest_pause(job: Job, worker: Process, outcome: Outcome, timeout_s: float) -> float:
    """Watch the job to its end. Returns the longest time without a commit; the machine must live through it."""
    celery = worker.tree()[1:2]
    begin = changed = time.monotonic()
    longest, done = 0.0, job.done
    while job.state == "running" and time.monotonic() - begin < timeout_s:
        time.sleep(0.05)
        if job.done != done:
            longest, changed, done = max(longest, time.monotonic() - changed), time.monotonic(), job.done
    outcome.require(worker.is_alive, "the worker died of its engine")
    outcome.require(set(celery) <= set(worker.tree()), "the Celery worker died of its engine")
    outcome.require(job.state == "done", f"the job is {job.state}")
    return longest
