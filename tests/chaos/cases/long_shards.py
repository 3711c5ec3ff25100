"""T5: a shard that takes ten times as long as its lease."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.arena import Arena
from tests.chaos.report import Outcome

SHARD_ROWS = 100
LEASE_S = 2.0
#: leases each shard outlasts
TIMES = {"short": 10, "long": 60}


def run(profile: str, seed: int, folder: Path) -> list[Outcome]:
    seconds = LEASE_S * TIMES[profile]
    # two shards share the engine, so each row costs both of them its time
    with Arena(folder, lease_seconds=LEASE_S, ms_per_row=seconds * 1000 / SHARD_ROWS / 2) as arena:
        job = arena.job(2 * SHARD_ROWS, SHARD_ROWS)
        arena.start_worker()
        arena.start_worker()
        job.wait_for_end(seconds * 3 + 60.0)
        outcome = Outcome(fault=f"T5 shard of {TIMES[profile]} leases", injected=2)
        outcome.recomputed = job.recomputed(SHARD_ROWS)
        outcome.require(outcome.recomputed == 0, "a shard was computed twice while its lease was renewed")
        job.judge(outcome)
        return [outcome]
