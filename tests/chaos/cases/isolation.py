"""T15: two environments on one Redis, in which every key of one would do harm in the other; and a Redis Cluster."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.arena import ENV, Arena
from tests.chaos.job import Job
from tests.chaos.process import Process
from tests.chaos.report import Outcome
from tests.chaos.server import Server, find_server, free_port

SHARD_ROWS = 20
OTHER = "other"


def run(profile: str, seed: int, folder: Path) -> list[Outcome]:
    return [_two_environments(folder / "shared"), _cluster(folder / "cluster")]


def _two_environments(folder: Path) -> Outcome:
    """A worker of one environment must not even see a job of the other, whatever the queue is called."""
    with Arena(folder, ms_per_row=2.0) as arena:
        ours = arena.job(30 * SHARD_ROWS, SHARD_ROWS)
        arena.start_worker(PARQUETRY_ENV=OTHER)
        arena.start_worker()
        ours.wait_for_end()
        outcome = Outcome(fault="T15 two environments on one Redis", injected=1)
        ours.judge(outcome)
        outcome.recomputed = ours.recomputed(SHARD_ROWS)
        _require_apart(arena, ours, outcome)
        return outcome


def _require_apart(arena: Arena, job: Job, outcome: Outcome) -> None:
    keys = [key.decode() for key in arena.server.client().scan_iter(count=1000)]
    strays = [key for key in keys if not key.startswith((f"pq:{ENV}:", f"pq:{OTHER}:"))]
    outcome.require(not strays, f"keys outside both environments: {strays[:3]}")
    mixed = [key for key in keys if key.startswith(f"pq:{OTHER}:") and job.id in key]
    outcome.require(not mixed, f"the other environment knows our job: {mixed[:3]}")


def _cluster(folder: Path) -> Outcome:
    """A Redis Cluster is refused with a sentence that says why."""
    with Arena(folder) as arena:
        cluster = _ClusterServer(folder / "node")
        worker = arena.start_worker(PARQUETRY_BROKER_URL=cluster.url)
        code = worker.wait(30.0)
        cluster.kill()
        outcome = Outcome(fault="T15 Redis Cluster as broker", injected=1)
        outcome.require(code == 2, f"the worker left with exit code {code}")
        outcome.require("Redis Cluster" in worker.tail(), "no word of the Cluster in what the worker says")
        return outcome


class _ClusterServer(Server):
    """One node of a Cluster, which owns every slot."""

    def start(self) -> None:
        # the bus of a Cluster listens 10,000 ports above
        while self.port > 55_000:
            self.port = free_port()
        self._process = Process(
            [find_server(), *self._options(), "--cluster-enabled", "yes"], self.folder / "server.log"
        )
        self.wait_for_answer()
        self.client().execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
