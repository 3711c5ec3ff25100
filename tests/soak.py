"""Two workers, many small jobs and a large one for as long as wanted: memory, handles and files must stay level.

`python -m tests.soak --minutes 60`; the engines echo, so that what grows is ours.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from parquetry.schemas.progress.states import JobState
from parquetry.tasks.broker.connection import connect
from parquetry.tasks.ledger.ledger import Ledger
from tests.chaos.checker import check
from tests.chaos.process import Process
from tests.chaos.server import Server
from tests.integration.jobs_on_disk import DiskJob, make_job

SMALL_JOBS = 500
SAMPLE_S = 10.0
#: what the second half may have more than the first, of means
MAX_GROWTH = 1.1
WORKER = (sys.executable, "-P", "-m", "parquetry", "worker", "--gpus", "none")


@dataclass(frozen=True)
class Sample:
    """All processes of both workers together, and what lies in their folders."""

    seconds: float
    processes: int
    memory_mib: float
    handles: int
    files: int
    broker_mib: float


def start_workers(folder: Path, url: str, ms_per_row: float) -> list[Process]:
    variables = {
        "PARQUETRY_BROKER_URL": url,
        "PARQUETRY_ENV": "soak",
        "PARQUETRY_ENGINE_FACTORY": "tests.chaos.echo_engine:open_engine",
        "CHAOS_MS_PER_ROW": str(ms_per_row),
        "TMPDIR": str(folder / "tmp"),
        "PARQUETRY_STATE_DIR": str(folder / "state"),
    }
    (folder / "tmp").mkdir()
    return [Process(WORKER, folder / f"worker-{number}.log", **variables) for number in range(2)]


def sample(begun: float, workers: Sequence[Process], folder: Path, url: str) -> Sample:
    pids = [pid for worker in workers for pid in worker.tree()]
    memory = sum(_pss_kib(pid) for pid in pids) / 1024
    handles = sum(_count(Path(f"/proc/{pid}/fd")) for pid in pids)
    files = sum(1 for name in ("tmp", "state") for _ in (folder / name).rglob("*"))
    with connect(url) as client:
        broker = client.info("memory")["used_memory"] / (1 << 20)
    return Sample(time.monotonic() - begun, len(pids), memory, handles, files, broker)


def _pss_kib(pid: int) -> int:
    """Shared pages count for their share; 0 of a process that has just ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def _count(folder: Path) -> int:
    try:
        return sum(1 for _ in folder.iterdir())
    except OSError:
        return 0


def jobs_over_time(folder: Path, ledger: Ledger, seconds: float) -> Iterator[DiskJob | None]:
    """The large job at once, the small ones evenly over nine tenths of the time; None when it is too early for one."""
    begun, model = time.monotonic(), folder / "model"
    yield _job(folder / "large", ledger, model, rows=int(seconds * 20), rows_per_shard=200)
    for number in range(SMALL_JOBS):
        while time.monotonic() - begun < 0.9 * seconds * number / SMALL_JOBS:
            yield None
        yield _job(folder / f"small-{number}", ledger, model, rows=20, rows_per_shard=10)


def _job(folder: Path, ledger: Ledger, model: Path, **sizes: int) -> DiskJob:
    folder.mkdir()
    return make_job(folder, ledger, model=model, **sizes)


def soak(folder: Path, minutes: float) -> tuple[list[Sample], int, int]:
    """Samples, jobs, and how many of these did not end whole."""
    server = Server(folder / "redis")
    ledger = Ledger(connect(server.url), "soak")
    workers = start_workers(folder, server.url, ms_per_row=50.0)
    samples: list[Sample] = []
    jobs: list[DiskJob] = []
    torn = 0
    try:
        begun = time.monotonic()
        for job in jobs_over_time(folder, ledger, minutes * 60):
            jobs += [job] if job else []
            if not samples or time.monotonic() - begun - samples[-1].seconds >= SAMPLE_S:
                samples.append(sample(begun, workers, folder, server.url))
                print(samples[-1], len(jobs), flush=True)
            time.sleep(0 if job else 0.2)
        while any(ledger.status(job.name, max_failures=0).state is JobState.RUNNING for job in jobs[-20:] + jobs[:1]):
            time.sleep(1.0)
        for job in jobs:
            status, found = ledger.status(job.name), check(Path(job.storage.root.path), job.table).violations
            if status.state is not JobState.DONE or found:
                torn += 1
                print("NOT WHOLE", job.name, status.state, found, [each.reason for each in status.failures])
    finally:
        for worker in workers:
            worker.stop(30.0)
        server.kill()
    return samples, len(jobs), torn


def verdict(samples: Sequence[Sample]) -> list[str]:
    """A line for each count: its means of the second and the third third, which must be alike; the first warms up."""
    third = len(samples) // 3
    early, late = samples[third : 2 * third], samples[2 * third :]
    lines = []
    for name in ("processes", "memory_mib", "handles", "files"):
        before, after = (sum(getattr(each, name) for each in part) / max(len(part), 1) for part in (early, late))
        level = "level" if after <= before * MAX_GROWTH else "GROWS"
        lines.append(f"{name:12} {before:10.1f} {after:10.1f}  {level}")
    return lines


def main() -> int:
    """Print samples and the verdict; 1 when something grew."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pq-soak-", ignore_cleanup_errors=True) as name:
        samples, jobs, torn = soak(Path(name), options.minutes)
        left = [path.name for path in (Path(name) / "tmp").iterdir()]
    lines = verdict(samples)
    print(
        f"{jobs} jobs, {torn} of them not whole, {len(samples)} samples",
        *lines,
        f"left in the temporary folder: {left}",
        sep="\n",
    )
    return int(any("GROWS" in line for line in lines) or bool(left) or bool(torn))


if __name__ == "__main__":
    sys.exit(main())
