"""T9c: Redis is away for two minutes, twice as long as a lease of the default length, while shards run."""

from __future__ import annotations

import time
from pathlib import Path

from tests.chaos.arena import ENV, Arena
from tests.chaos.job import Job
from tests.chaos.ledger_audit import holders
from tests.chaos.process import wait_until
from tests.chaos.report import Outcome

LEASE_S, AWAY_S = 60.0, 120.0
#: a shard takes 150 s: it begins before the outage and ends after it
SHARD_ROWS, MS_PER_ROW = 1000, 150.0
#: from the server's return until every holder has renewed its lease
RENEWED_S = 15.0


def run(profile: str, seed: int, folder: Path) -> list[Outcome]:
    with Arena(folder, ms_per_row=MS_PER_ROW, lease_seconds=LEASE_S, reconcile_seconds=5.0) as arena:
        job = arena.job(2 * SHARD_ROWS, SHARD_ROWS)
        for _ in range(2):
            arena.start_worker(in_flight=1)
        wait_until(lambda: len(_held(arena, job)) == 2, 180.0, "two running shards")
        time.sleep(5.0)
        before = _held(arena, job)
        arena.server.kill()
        time.sleep(AWAY_S)
        arena.server.start()
        outcome = Outcome(fault=f"T9 Redis away for {AWAY_S:.0f} s, leases of {LEASE_S:.0f} s", injected=1)
        outcome.slowest_s = wait_until(lambda: _all_renewed(arena, job), 60.0, "every lease to be renewed")
        outcome.require(_held(arena, job) == before, "a shard is held by another than before")
        job.wait_for_end(300.0)
        job.judge(outcome)
        outcome.recomputed = job.recomputed(SHARD_ROWS)
        outcome.require(outcome.slowest_s <= RENEWED_S, f"a lease was renewed only after {outcome.slowest_s:.1f} s")
        outcome.require(outcome.recomputed == 0, f"{outcome.recomputed} shards recomputed")
        outcome.require(job.field("retries") in ("", "0"), f"{job.field('retries')} attempts spent")
        return [outcome]


def _held(arena: Arena, job: Job) -> dict[int, str]:
    return holders(arena.server.client(), ENV, job.id)


def _all_renewed(arena: Arena, job: Job) -> bool:
    ends = arena.server.client().zrange(f"pq:{ENV}:{{{job.id}}}:lease", 0, -1, withscores=True)
    return len(ends) == 2 and all(end / 1000 > time.time() for _, end in ends)
