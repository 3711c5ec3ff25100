"""T17: every call to Redis and to storage may fail, before it has happened or after."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.chaos.cell_block import CellBlock, total
from tests.chaos.flaky import Flaky
from tests.chaos.report import Outcome

SEEDS = {"short": 24, "long": 1000}
CHANCE = 0.08


def run(profile: str, seed: int, folder: Path) -> list[Outcome]:
    with CellBlock(folder) as block:
        seeds = range(seed, seed + SEEDS[profile])
        return [total(f"T17 errors on {CHANCE:.0%} of calls, {len(seeds)} seeds", block.run(_drivers(block, seeds)))]


def _drivers(block: CellBlock, seeds: range) -> Iterator[Callable[[], None]]:
    for seed in seeds:
        yield partial(_cell, block, seed)


def _cell(block: CellBlock, seed: int) -> None:
    """Two flaky workers race for the job; a seed tells which of their calls fail."""
    cell = block.cell(f"seed-{seed}")
    cell.submit()
    counts = [cell.folder / f"faults-{number}" for number in range(2)]
    flaky = [Flaky(2 * seed + number, CHANCE, counts[number]) for number in range(2)]
    workers = [cell.worker(prepare=each.infect) for each in flaky]
    for worker in workers:
        worker.settle(120.0)
    cell.finish([])
    cell.judge()
    cell.outcome.injected = sum(count.stat().st_size for count in counts if count.exists())
    cell.save()
