"""T4: a machine is stopped while it waits for permits, gets one, and is killed before it can write that down."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from tests.chaos.arena import Arena
from tests.chaos.process import signal_all
from tests.chaos.report import Outcome

COUNTS = {"short": 3, "long": 50}
#: the lock that the killed machine's reconciler may have held, and some passes of another, every second
REPAIR_S = 15.0
#: one shard has one permit, which is the one that is lost
ROWS = 40
#: whoever holds the shard has taken it over
NOBODY = ""


def run(profile: str, seed: int, folder: Path) -> list[Outcome]:
    outcome = Outcome(fault="T4 kill -9 between BRPOP and its note", injected=COUNTS[profile], slowest_s=0.0)
    with Arena(folder) as arena:
        for number in range(COUNTS[profile]):
            _lose_one(arena, number, outcome)
    outcome.require(
        outcome.slowest_s <= REPAIR_S, f"a permit was missed for {outcome.slowest_s:.1f} s beside a free slot"
    )
    return [outcome]


def _lose_one(arena: Arena, number: int, outcome: Outcome) -> None:
    worker = arena.start_worker(in_flight=1)
    known = arena.server.client().zcard("pq:chaos:workers")
    arena.wait_for_workers(known + 1)
    arena.server.wait_for_brpop()
    frozen = worker.freeze()
    job = arena.job(ROWS, ROWS, name=f"out-{number}")
    time.sleep(0.1)
    signal_all(frozen, signal.SIGKILL)
    arena.kill_worker(worker)
    helper = arena.start_worker()
    taken = arena.wait_for_takeover(job, {0: NOBODY})
    outcome.slowest_s = max(outcome.slowest_s, taken - arena.ready_at(helper))
    job.wait_for_end(60.0)
    job.judge(outcome)
    arena.kill_worker(helper)
