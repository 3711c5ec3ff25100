"""T9 and T10: Redis killed, emptied, set back and failed over; and everything killed at one instant."""

from __future__ import annotations

import random
import shutil
import signal
import time
from pathlib import Path

from tests.chaos.arena import Arena
from tests.chaos.job import Job
from tests.chaos.process import signal_all, wait_until
from tests.chaos.report import Outcome

SHARD_ROWS = 20
RESTARTS = {"short": 4, "long": 20}
RECOVERY_S = 20.0
#: shards that two machines have in flight
IN_FLIGHT = 4


def run_restarts(profile: str, seed: int, folder: Path) -> list[Outcome]:
    """T9: SIGKILL Redis, whose append-only file is on, and start it again a second later."""
    count, draw = RESTARTS[profile], random.Random(seed)
    with Arena(folder, ms_per_row=10.0) as arena:
        job = _started(arena, shards=60 * count)
        outcome = Outcome(fault="T9 SIGKILL of Redis, AOF on", injected=count, slowest_s=0.0)
        for _ in range(count):
            time.sleep(draw.uniform(1.0, 3.0))
            arena.server.kill()
            time.sleep(1.0)
            arena.server.start()
            outcome.slowest_s = max(outcome.slowest_s, job.progress())
        return [_finish(job, outcome)]


def run_flush(profile: str, seed: int, folder: Path) -> list[Outcome]:
    """T9: FLUSHALL in the middle of a job, then `parquetry recover`."""
    with Arena(folder, ms_per_row=10.0) as arena:
        job = _started(arena, shards=80)
        job.wait_for_commits(20)
        arena.server.client().flushall()
        outcome = Outcome(fault="T9 FLUSHALL, then recover", injected=1)
        outcome.slowest_s = _recover(arena, job, outcome)
        _finish(job, outcome)
        outcome.require(outcome.recomputed <= IN_FLIGHT, f"{outcome.recomputed} shards recomputed")
        return [outcome]


def run_older(profile: str, seed: int, folder: Path) -> list[Outcome]:
    """T10: Redis comes back with an append-only file of some seconds ago, as after a failover to a late replica."""
    with Arena(folder, ms_per_row=10.0) as arena:
        job = _started(arena, shards=120)
        job.wait_for_commits(20)
        data, older = arena.server.folder / "appendonlydir", folder / "older"
        arena.server.pause()
        shutil.copytree(data, older)
        arena.server.resume()
        job.wait_for_commits(60)
        arena.server.kill()
        shutil.rmtree(data)
        shutil.copytree(older, data)
        arena.server.start()
        outcome = Outcome(fault="T10 Redis set back by 40 commits", injected=1, slowest_s=job.progress())
        return [_finish(job, outcome)]


def run_failover(profile: str, seed: int, folder: Path) -> list[Outcome]:
    """T10: the master dies, Sentinel makes its replica the master, and everybody finds it."""
    with Arena(folder, sentinels=True, ms_per_row=10.0) as arena:
        job = _started(arena, shards=70)
        job.wait_for_commits(20)
        before, begin = job.done, time.monotonic()
        arena.server.kill_master()
        wait_until(lambda: job.done > before, 60.0, "a commit on the new master")
        outcome = Outcome(fault="T10 SIGKILL of the master, failover by Sentinel", injected=1)
        outcome.slowest_s = time.monotonic() - begin
        outcome.require(arena.server.has_failed_over(), "the replica is not the master")
        return [_finish(job, outcome)]


def run_everything(profile: str, seed: int, folder: Path) -> list[Outcome]:
    """Workers, engines and a Redis that keeps nothing die at once; then `parquetry recover`, and new workers."""
    with Arena(folder, ms_per_row=10.0, persistent=False) as arena:
        job = _started(arena, shards=80)
        job.wait_for_commits(20)
        victims = [pid for worker in arena.workers for pid in worker.freeze()]
        signal_all(victims, signal.SIGKILL)
        arena.server.kill()
        for worker in list(arena.workers):
            arena.kill_worker(worker)
        arena.server.start()
        outcome = Outcome(fault="kill -9 of everything, Redis without a disk, then recover", injected=len(victims) + 1)
        arena.start_worker()
        outcome.slowest_s = _recover(arena, job, outcome)
        _finish(job, outcome)
        outcome.require(outcome.recomputed <= IN_FLIGHT, f"{outcome.recomputed} shards recomputed")
        return [outcome]


def _started(arena: Arena, shards: int) -> Job:
    job = arena.job(shards * SHARD_ROWS, SHARD_ROWS)
    for _ in range(2):
        arena.start_worker()
    job.wait_for_commits(1)
    return job


def _recover(arena: Arena, job: Job, outcome: Outcome) -> float:
    """Seconds from the command to the first commit after it."""
    begin = time.monotonic()
    command = arena.command("recover", job.output)
    outcome.require(command.exit_code == 0, f"recover: exit {command.exit_code}: {command.tail(3)}")
    job.progress()
    return time.monotonic() - begin


def _finish(job: Job, outcome: Outcome) -> Outcome:
    job.wait_for_end(300.0)
    job.judge(outcome)
    outcome.recomputed = job.recomputed(SHARD_ROWS)
    if outcome.slowest_s is not None:
        outcome.require(outcome.slowest_s <= RECOVERY_S, f"no commit for {outcome.slowest_s:.1f} s")
    return outcome
