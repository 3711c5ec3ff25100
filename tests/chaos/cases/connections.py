"""T6 and T7: connections cut, slow, lossy, held back, and left half open."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tests.chaos.arena import Arena
from tests.chaos.job import Job
from tests.chaos.proxy import Proxy
from tests.chaos.report import Outcome

SHARD_ROWS = 20
CUTS = {"short": 20, "long": 100}
#: seconds that a black hole lasts
HOLE_S = {"short": 8.0, "long": 60.0}
ROUNDS = {"short": 1, "long": 20}
HEAL_S = 30.0


def run_cuts(profile: str, seed: int, folder: Path) -> list[Outcome]:
    """T6: CLIENT KILL of every connection, again and again."""
    cuts = CUTS[profile]
    with Arena(folder, ms_per_row=25.0) as arena:
        job = arena.job(cuts * 3 * SHARD_ROWS, SHARD_ROWS)
        for _ in range(2):
            arena.start_worker()
        job.wait_for_commits(1)
        outcome = Outcome(fault="T6 CLIENT KILL of every connection", injected=cuts)
        for _ in range(cuts):
            time.sleep(0.7)
            arena.server.cut_clients()
        outcome.slowest_s = job.progress()
        job.wait_for_end(600.0)
        outcome.recomputed = job.recomputed(SHARD_ROWS)
        outcome.require(outcome.recomputed == 0, f"{outcome.recomputed} shards recomputed")
        job.judge(outcome)
        return [outcome]


def run_proxy(profile: str, seed: int, folder: Path) -> list[Outcome]:
    """T7: every fault of the proxy in turn, on one job."""
    faults: dict[str, Callable[[Proxy], None]] = {
        "latency": lambda proxy: _during(proxy, 6.0, latency_s=1.0),
        "resets": lambda proxy: _reset_often(proxy),
        "1% of chunks reset": lambda proxy: _during(proxy, 6.0, reset_chance=0.01),
        "black hole": lambda proxy: _swallow(proxy, HOLE_S[profile]),
        "half-open": lambda proxy: proxy.orphan(),
    }
    with Arena(folder, ms_per_row=10.0) as arena:
        proxy = Proxy(arena.server.port, seed)
        job = arena.job(300 * ROUNDS[profile] * SHARD_ROWS, SHARD_ROWS)
        for _ in range(2):
            arena.start_worker(PARQUETRY_BROKER_URL=proxy.url)
        job.wait_for_commits(1)
        outcome = Outcome(fault=f"T7 proxy: {', '.join(faults)}", injected=len(faults) * ROUNDS[profile], slowest_s=0.0)
        for _ in range(ROUNDS[profile]):
            for name, fault in faults.items():
                fault(proxy)
                proxy.heal()
                _await_progress(job, name, outcome)
        return [_finish(arena, job, outcome)]


def _await_progress(job: Job, name: str, outcome: Outcome) -> None:
    waited = job.progress()
    outcome.slowest_s = max(outcome.slowest_s, waited)
    outcome.require(waited <= HEAL_S, f"{name}: no commit for {waited:.1f} s after it had healed")


def _finish(arena: Arena, job: Job, outcome: Outcome) -> Outcome:
    """The faults are over: the rest runs without the proxy's price."""
    job.wait_for_end(600.0)
    outcome.recomputed = job.recomputed(SHARD_ROWS)
    job.judge(outcome)
    return outcome


def _during(proxy: Proxy, seconds: float, **faults: float) -> None:
    for name, value in faults.items():
        setattr(proxy, name, value)
    time.sleep(seconds)


def _reset_often(proxy: Proxy) -> None:
    for _ in range(8):
        proxy.reset_all()
        time.sleep(0.5)


def _swallow(proxy: Proxy, seconds: float) -> None:
    proxy.swallow()
    time.sleep(seconds)
