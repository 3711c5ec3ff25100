"""T3: SIGTERM at random moments, to a machine whose shards take longer than it may."""

from __future__ import annotations

import random
import time
from pathlib import Path

from tests.chaos.arena import Arena
from tests.chaos.job import Job
from tests.chaos.process import Process
from tests.chaos.report import Outcome

SHARD_ROWS = 10
#: (SIGTERMs, shards)
SIZES = {"short": (4, 14), "long": (200, 1200)}
GRACE_S = 30.0
#: what a released shard may wait beside a free slot: a pass of the reconciler, every second, and a claim
TAKEOVER_S = 5.0
NEW_SHARD_S = 8.0


def run(profile: str, seed: int, folder: Path) -> list[Outcome]:
    signals, shards = SIZES[profile]
    draw = random.Random(seed)
    with Arena(folder, ms_per_row=500.0, drain_seconds=1.0, lease_seconds=60.0) as arena:
        job = arena.job(shards * SHARD_ROWS, SHARD_ROWS)
        for _ in range(2):
            arena.start_worker()
        arena.wait_for_workers(2)
        outcome = Outcome(fault="T3 SIGTERM", injected=signals, slowest_s=0.0)
        for _ in range(signals):
            _drain(arena, job, draw, outcome)
        job.wait_for_end(1200.0)
        job.judge(outcome)
        outcome.recomputed = job.recomputed(SHARD_ROWS)
        outcome.require(outcome.recomputed > 0, "no drain met a running shard; the case proves nothing")
        return [outcome]


def _wait_for_new_shard(arena: Arena, job: Job, worker: Process) -> None:
    """Return when the machine has just begun a shard; at the end of a job there may be none."""
    before, deadline = set(arena.held_by(job, worker)), time.monotonic() + NEW_SHARD_S
    while set(arena.held_by(job, worker)) <= before and time.monotonic() < deadline:
        time.sleep(0.05)


def _drain(arena: Arena, job: Job, draw: random.Random, outcome: Outcome) -> None:
    """SIGTERM one machine; the lease is far too long for anything but a release to free its shards in time."""
    victim = draw.choice(arena.serving())
    _wait_for_new_shard(arena, job, victim)
    # some rows in, and with more left than the drain has time for
    time.sleep(draw.uniform(1.0, 3.0))
    held = arena.held_by(job, victim)
    took = victim.stop(GRACE_S)
    arena.workers.remove(victim)
    outcome.require(took < GRACE_S and victim.exit_code == 0, f"exit {victim.exit_code} after {took:.1f} s")
    left = arena.held_by(job, victim)
    outcome.require(not left, f"shards {sorted(left)} were still leased when the machine had stopped")
    replacement = arena.start_worker()
    taken = arena.wait_for_takeover(job, held)
    # the slots of the others are full until then
    waited = max(0.0, taken - arena.ready_at(replacement))
    outcome.slowest_s = max(outcome.slowest_s, took + waited)
    outcome.require(waited <= TAKEOVER_S, f"a released shard waited {waited:.1f} s beside a free slot")
