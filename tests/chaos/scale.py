"""The ledger at the size it is meant for: `python -m tests.chaos.scale` prints one line a bound.

A million shards, two hundred simulated workers, jobs of equal and of unequal priority, and models that stay loaded. The
workers are simulated: one claims, commits and claims again, as fast as one client can, so a claim's time is the time of
one script on a server that is never idle.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import redis

from parquetry.schemas.progress.status import EngineStats
from parquetry.schemas.settings import PROGRESS_SECONDS
from parquetry.schemas.shard import InputFile, ShardPlan
from parquetry.tasks import permits
from parquetry.tasks.broker.connection import connect
from parquetry.tasks.keys import DIGESTS_PER_KEY
from parquetry.tasks.ledger.claim import Claim, LeaseProgress
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.ledger.policy import Policy
from tests.chaos.fabricated import stand_in, stand_in_record
from tests.chaos.server import Server

MILLION = 1_000_000
WORKERS = 200
CLAIMS = 20_000
QUEUES = ("default",)
MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A measured number and its bound."""

    name: str
    value: float
    bound: float
    unit: str

    @property
    def held(self) -> bool:
        return self.value <= self.bound

    def __str__(self) -> str:
        verdict = "yes" if self.held else "NO"
        return f"{self.name:<58} {self.value:10,.2f} {self.unit:<7} bound {self.bound:,g} {self.unit}  held: {verdict}"


class Bench:
    """One server, emptied before each measurement."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.server = folder, Server(folder / "redis")
        self.client: redis.Redis = connect(self.server.url)

    def ledger(self, **policy: float) -> Ledger:
        self.client.flushall()
        limits = {"lease_s": 60.0, "max_attempts": 3, "starvation_s": 300.0, **policy}
        return Ledger(self.client, "scale", Policy(**limits))

    def add(self, ledger: Ledger, job: str, shards: int, *, priority: int = 5, model: str = "model") -> None:
        record = stand_in_record(self.folder, self.folder / job, job, priority=priority, model=model)
        source = InputFile(path=str(self.folder / "none.parquet"), num_rows=shards, size=1, etag="1")
        plan = ShardPlan(files=(source,), bounds=tuple(range(shards + 1)))
        ledger.register(record.model_copy(update={"shard_plan": plan}))

    def peak_mib(self) -> float:
        return self.client.info("memory")["used_memory_peak"] / MIB


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="parquetry-scale-") as name:
        bench = Bench(Path(name))
        figures = [figure for measure in MEASURES for figure in measure(bench)]
        bench.server.kill()
    print("\n".join(map(str, figures)))
    return 0 if all(figure.held for figure in figures) else 1


def a_million_shards(bench: Bench) -> list[Figure]:
    """Load one job of a million shards, run a part of it on two hundred workers, and count the permits."""
    ledger = bench.ledger()
    begin = time.perf_counter()
    bench.add(ledger, "generate-million", MILLION)
    loaded_s = time.perf_counter() - begin
    times = _spin(ledger, CLAIMS)
    permits.top_up(ledger, bench.server.url, "default", issued_by="submit")
    waiting = ledger.permits("default")
    return [
        Figure(name="1,000,000 shards loaded", value=loaded_s, bound=10.0, unit="s"),
        Figure(name="Redis, peak", value=bench.peak_mib(), bound=64.0, unit="MiB"),
        Figure(name=f"CLAIM with {WORKERS} workers, median", value=_percentile(times, 50), bound=10.0, unit="ms"),
        Figure(name=f"CLAIM with {WORKERS} workers, p99", value=_percentile(times, 99), bound=10.0, unit="ms"),
        Figure(name="permits in the broker", value=waiting, bound=2 * WORKERS, unit="permits"),
    ]


def all_committed(bench: Bench) -> list[Figure]:
    """The far end of that job: the digests of all parts are kept until the manifest is written."""
    ledger = bench.ledger()
    bench.add(ledger, "generate-million", MILLION)
    # the last shard of a block of digests makes the block as long as it ever gets
    for shard in range(0, MILLION, DIGESTS_PER_KEY):
        number = min(shard + DIGESTS_PER_KEY, MILLION) - 1
        last = Claim(job="generate-million", shard=number, fence=1, worker="w", output="")
        ledger.adopt(last.job, stand_in(last, rows=1))
    return [Figure(name="Redis when all 1,000,000 are committed, peak", value=bench.peak_mib(), bound=64.0, unit="MiB")]


def half_recovered(bench: Bench) -> list[Figure]:
    """The worst case for the list of pending shards: every other one is committed."""
    ledger = bench.ledger()
    bench.add(ledger, "generate-holes", MILLION // 10)
    claims = [ledger.claim("w", QUEUES) for _ in range(MILLION // 10)]
    for claim in claims[::2]:
        _commit(ledger, claim)
    for claim in claims[1::2]:
        ledger.release(claim)
    times = _spin(ledger, CLAIMS // 4)
    p99 = _percentile(times, 99)
    return [Figure(name="CLAIM where every other shard is done, p99", value=p99, bound=10.0, unit="ms")]


def fairness(bench: Bench) -> list[Figure]:
    """Five jobs of equal priority and one model share the workers evenly."""
    ledger = bench.ledger()
    for number in range(5):
        bench.add(ledger, f"generate-fair-{number}", CLAIMS)
    served = Counter()
    _spin(ledger, CLAIMS // 2, seen=lambda claim: served.update([claim.job]))
    counts = list(served.values())
    spread = (max(counts) - min(counts)) / statistics.mean(counts) * 100
    return [Figure(name="five equal jobs: (max - min) / mean of shards served", value=spread, bound=5.0, unit="%")]


def priorities(bench: Bench) -> list[Figure]:
    """A job of a better priority is served alone until it has no more shards."""
    ledger = bench.ledger()
    bench.add(ledger, "generate-low", CLAIMS, priority=9)
    bench.add(ledger, "generate-high", 500, priority=0)
    order: list[str] = []
    _spin(ledger, 1000, seen=lambda claim: order.append(claim.job))
    early = sum(1 for job in order[:500] if job == "generate-low")
    return [Figure(name="shards served ahead of a better priority", value=early, bound=0, unit="shards")]


def affinity(bench: Bench) -> list[Figure]:
    """Two models: workers keep theirs, but one that has its model and plenty to do still turns to others in time."""
    ledger = bench.ledger()
    for name in ("a", "b"):
        bench.add(ledger, f"generate-{name}", 2 * CLAIMS, model=name)
    last: dict[str, str] = {}
    switches = Counter()
    _spin(ledger, CLAIMS // 2, seen=lambda claim: _count_switch(claim, last, switches))
    share = switches["switched"] / switches.total() * 100
    starvation_s = 1.0
    waited_s = _wait_of_newcomer(bench, bench.ledger(starvation_s=starvation_s))
    return [
        Figure(name="claims that change a worker's model", value=share, bound=5.0, unit="%"),
        Figure(
            name="a job waits for the one worker of another model", value=waited_s, bound=starvation_s + 0.5, unit="s"
        ),
    ]


def beats(bench: Bench) -> list[Figure]:
    """Two hundred shards in flight beat every four seconds and add points to the history; times are the server's."""
    ledger = bench.ledger()
    bench.add(ledger, "generate-beats", WORKERS)
    engine = EngineStats(seconds=1000.5, computed_tokens=10**9, decode_tokens=10**8, padding_tokens=10**6, kv_use=0.5)
    for worker in range(WORKERS):
        options = {"host": "here", "device": "cuda:0", "queues": QUEUES, "shards_in_flight": 1, "engine": engine}
        ledger.roster.announce(f"worker-{worker}", **options)
    claims = [ledger.claim(f"worker-{worker}", QUEUES) for worker in range(WORKERS)]
    progress = LeaseProgress(rows=400, computed_prompt_tokens=10**6, computed_output_tokens=10**5, is_computing=True)
    for claim in claims:
        ledger.beat(claim, progress)
    plain_us = _server_us(bench, lambda: [ledger.beat(claim, progress) for claim in claims])
    point_us = _server_us(bench, lambda: _noted_beats(bench, ledger, claims[:20], progress))
    a_second = WORKERS / PROGRESS_SECONDS
    # a point every two seconds, and the other beats
    busy = (plain_us * (a_second - 0.5) + point_us * 0.5) / 1e6 * 100
    return [
        Figure(name="a beat on the server, 200 shards in flight", value=plain_us, bound=100.0, unit="us"),
        Figure(name="a beat that adds a point to the history", value=point_us, bound=20_000.0, unit="us"),
        Figure(name=f"{a_second:.0f} beats a second: share of the server's core", value=busy, bound=2.0, unit="%"),
    ]


def _noted_beats(bench: Bench, ledger: Ledger, claims: list[Claim], progress: LeaseProgress) -> None:
    """Beats that come as if the last point were long ago."""
    for claim in claims:
        bench.client.hset(ledger._keys.of_job(claim.job, "ctl"), "pointed", 0)
        ledger.beat(claim, progress)


def _server_us(bench: Bench, work: Callable[[], object]) -> float:
    """Microseconds a script took on the server, by its own count."""
    bench.client.config_resetstat()
    work()
    return float(bench.client.info("commandstats")["cmdstat_evalsha"]["usec_per_call"])


def _wait_of_newcomer(bench: Bench, ledger: Ledger) -> float:
    """Seconds until a job whose model is not loaded gets the only worker, whose own job has plenty."""
    bench.add(ledger, "generate-resident", 2 * CLAIMS, model="a")
    _spin(ledger, 1, workers=1)
    bench.add(ledger, "generate-newcomer", 10, model="b")
    begin, first = time.perf_counter(), []

    def look(claim: Claim) -> None:
        if claim.job == "generate-newcomer" and not first:
            first.append(time.perf_counter() - begin)

    while not first and time.perf_counter() - begin < 30.0:
        _spin(ledger, 10, seen=look, workers=1)
    return first[0] if first else float("inf")


def _count_switch(claim: Claim, last: dict[str, str], switches: Counter) -> None:
    kept = last.setdefault(claim.worker, claim.job) == claim.job
    switches["kept" if kept else "switched"] += 1
    last[claim.worker] = claim.job


def _spin(
    ledger: Ledger, claims: int, *, seen: Callable[[Claim], None] = lambda claim: None, workers: int = WORKERS
) -> list[float]:
    """Let `workers` workers claim in turn, each committing what it held. Returns the time of every CLAIM in ms."""
    for worker in range(workers):
        ledger.roster.announce(f"worker-{worker}", host="here", device="cpu", queues=QUEUES, shards_in_flight=1)
    held: dict[str, Claim] = {}
    times = []
    for number in range(claims):
        worker = f"worker-{number % workers}"
        if worker in held:
            _commit(ledger, held.pop(worker))
        begin = time.perf_counter()
        claim = ledger.claim(worker, QUEUES)
        times.append((time.perf_counter() - begin) * 1000)
        if claim is not None:
            held[worker] = claim
            seen(claim)
    for claim in held.values():
        ledger.release(claim)
    return times


def _commit(ledger: Ledger, claim: Claim) -> None:
    ledger.commit(claim, stand_in(claim, rows=1))


def _percentile(values: list[float], percent: int) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


MEASURES = (a_million_shards, all_committed, half_recovered, fairness, priorities, affinity, beats)

if __name__ == "__main__":
    sys.exit(main())
