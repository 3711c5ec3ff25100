"""T1: kill -9 a random machine again and again, each time starting another one."""

from __future__ import annotations

import random
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from tests.chaos.arena import LEASE_S, Arena
from tests.chaos.job import Job
from tests.chaos.report import Outcome

SHARD_ROWS = 10
#: (machines, kills, seconds between two, shards)
SIZES = {"short": (3, 6, 3.0, 400), "long": (8, 300, 2.0, 20_000)}
#: takeovers watched at once
WATCHERS = 16
#: what a lost shard may wait beyond its lease
MARGIN_S = 10.0


def run(profile: str, seed: int, folder: Path) -> list[Outcome]:
    machines, kills, pause_s, shards = SIZES[profile]
    with Arena(folder, ms_per_row=15.0) as arena, ThreadPoolExecutor(WATCHERS) as pool:
        job = arena.job(shards * SHARD_ROWS, SHARD_ROWS)
        for _ in range(machines):
            arena.start_worker()
        job.wait_for_commits(1)
        takeovers = _kill_often(arena, job, random.Random(seed), kills, pause_s, pool)
        job.wait_for_end(3600.0 if profile == "long" else 120.0)
        outcome = _outcome(job, [takeover.result() for takeover in takeovers])
        outcome.require(len(takeovers) > kills // 2, f"the job ended after {len(takeovers)} of {kills} kills")
        return [outcome]


def _kill_often(
    arena: Arena, job: Job, draw: random.Random, kills: int, pause_s: float, pool: ThreadPoolExecutor
) -> list[Future[float]]:
    takeovers = []
    for _ in range(kills):
        time.sleep(draw.uniform(0.5, 1.5) * pause_s)
        if job.state == "done":
            break
        victim = draw.choice(arena.workers)
        arena.kill_worker(victim)
        takeovers.append(pool.submit(_wait, arena, job, arena.held_by(job, victim), time.time()))
        arena.start_worker()
    return takeovers


def _wait(arena: Arena, job: Job, held: dict[int, str], killed: float) -> float:
    """Seconds the lost shards waited; not those in which every machine was still starting."""
    return arena.wait_for_takeover(job, held) - max(killed, arena.first_ready())


def _outcome(job: Job, takeovers: list[float]) -> Outcome:
    kills, again = len(takeovers), job.recomputed(SHARD_ROWS)
    outcome = Outcome(fault="T1 kill -9 of a machine", injected=kills, recomputed=again, slowest_s=max(takeovers))
    job.judge(outcome)
    # two shards are in flight on a machine
    outcome.require(again <= 2 * kills, f"{again} shards recomputed by {kills} kills")
    outcome.require(max(takeovers) <= LEASE_S + MARGIN_S, f"a lost shard waited {max(takeovers):.1f} s")
    return outcome
