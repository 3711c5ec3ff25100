"""T24: the output lies on a network file system that loses answers, goes stale, caches, and fills up; two machines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.chaos.cell import Cell
from tests.chaos.cell_block import CellBlock, total
from tests.chaos.nfs.mount import NfsMount, can_mount, seen_through
from tests.chaos.process import wait_until
from tests.chaos.report import Outcome

SEEDS = {"short": 16, "long": 400}
CHANCE = 0.03
FULL_S = 3.0


def run(profile: str, seed: int, folder: Path) -> list[Outcome]:
    if not can_mount():
        return [Outcome(fault="T24 NFS (not tried: it takes root and /dev/fuse)", injected=0)]
    with CellBlock(folder) as block:
        export, stormy = folder / "export", folder / "stormy"
        export.mkdir()
        stormy.mkdir()
        # both see the same folder, each with a cache of its own
        mounts = [NfsMount(export, folder / f"node-{number}", seed + number, CHANCE, stormy) for number in range(2)]
        try:
            seeds = range(seed, seed + SEEDS[profile])
            outcomes = block.run(_drivers(block, mounts, export, stormy, seeds))
        finally:
            for mount in mounts:
                mount.end()
    full, lossy = ([o for o in outcomes if o.fault.startswith("full") is kind] for kind in (True, False))
    return [
        total(f"T24 NFS: lost answers, stale handles, caches of 3 s, {len(lossy)} seeds", lossy),
        total(f"T24 full disk or no quota for {FULL_S:.0f} s", full),
    ]


def _drivers(
    block: CellBlock, mounts: list[NfsMount], export: Path, stormy: Path, seeds: range
) -> Iterator[Callable[[], None]]:
    for seed in seeds:
        yield partial(_cell, block, mounts, export, stormy, f"{'full' if seed % 4 == 0 else 'lossy'}-{seed}")


def _cell(block: CellBlock, mounts: list[NfsMount], export: Path, stormy: Path, name: str) -> None:
    """Two workers on two machines race for the job; when the weather is fair again a third one ends it."""
    cell = block.cell(name)
    cell.job.output = str(mounts[0].point / name / "out")
    cell.submit()
    storm = stormy / name
    storm.write_text("full" if name.startswith("full") else "lossy")
    workers = [cell.worker(prepare=partial(_be_on, mount, mounts[0])) for mount in mounts]
    if storm.read_text() == "full":
        wait_until(lambda: sum(mount.faults(name) for mount in mounts) > 0, 60.0, "a write that finds no room")
        time.sleep(FULL_S)
        storm.unlink()
    for worker in workers:
        worker.settle(120.0)
    storm.unlink(missing_ok=True)
    cell.finish([])
    _judge(cell, export / name / "out")
    cell.outcome.injected = sum(mount.faults(name) for mount in mounts)
    cell.outcome.require(cell.outcome.injected > 0, f"{name}: nothing struck")
    cell.save()


def _be_on(mount: NfsMount, first: NfsMount) -> None:
    from parquetry.tasks.shard import outcome

    # how long a shard rests after a fault is not what is tested here
    outcome.FIRST_REST_S = outcome.LONGEST_REST_S = 0.1
    if mount is not first:
        seen_through(mount.point, first.point)


def _judge(cell: Cell, on_server: Path) -> None:
    """By what the server has, not by what a client believes."""
    cell.job.output = str(on_server)
    cell.judge()
