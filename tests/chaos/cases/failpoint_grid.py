"""T2: a worker is killed, stopped beyond its lease, or given an exception at every named step, on disk and on S3."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path

from tests.chaos.cell import SHARD_ROWS
from tests.chaos.cell_block import CellBlock, total
from tests.chaos.process import ROOT
from tests.chaos.report import Outcome

ACTIONS = ("kill", "stop", "raise")
#: in how many attempts the fault strikes
TIMES = {"short": (1,), "long": (1, 2)}
#: steps that are only reached after another fault
AFTER = {"adopt": "published:kill", "settle": "computed:raise", "quarantine": "computed:raise"}
#: settings under which a step is reached
SETTINGS = {
    "quarantine": {"PARQUETRY_MAX_ATTEMPTS": "1"},
    "seal": {"PARQUETRY_SEAL_SECONDS": "0.1"},
    "sealed": {"PARQUETRY_SEAL_SECONDS": "0.1"},
}
#: steps that only a shard that takes its time passes
SLOW = ("beat", "seal", "sealed")
#: steps that a shard passes only once before it is set aside
ONCE = ("quarantine",)
MIN_STEPS = 15


def steps() -> list[str]:
    """Every failpoint there is in the code, so that a new one cannot be forgotten here."""
    sources = (path.read_text() for path in sorted((ROOT / "tasks").rglob("*.py")))
    found = {name for source in sources for name in re.findall(r'failpoint\("(\w+)"\)', source)}
    # of retries of rows, which row_retries.py strikes
    return sorted(name for name in found if not name.startswith("retry_"))


def run(profile: str, seed: int, folder: Path) -> list[Outcome]:
    with CellBlock(folder, s3=True) as block:
        honest = block.s3.honours_conditional_puts()
        names = steps()
        outcomes = block.run(_drivers(block, names, TIMES[profile]))
        line = total(f"T2 kill, stop, raise at {len(names)} steps, disk and S3", outcomes)
        line.require(honest, "the S3 server does not honour conditional puts")
        line.require(len(names) >= MIN_STEPS, f"only {len(names)} failpoints")
        line.note = f"{len(outcomes)} cells"
        return [line]


def _drivers(block: CellBlock, names: list[str], times: tuple[int, ...]) -> Iterator[Callable[[], None]]:
    for step, action, s3, count in product(names, ACTIONS, (False, True), times):
        if count == 1 or step not in ONCE:
            yield partial(_cell, block, step, action, s3, count)


def _cell(block: CellBlock, step: str, action: str, s3: bool, times: int) -> None:
    spells = dict.fromkeys(range(2 * SHARD_ROWS), "SLOW") if step in SLOW else {}
    cell = block.cell(f"{step}-{action}-{'s3' if s3 else 'disk'}-{times}", s3=s3, spells=spells)
    cell.submit()
    failpoints = ",".join(filter(None, [AFTER.get(step), f"{step}:{action}:{times}"]))
    rounds = times + AFTER.get(step, "").endswith("kill")
    zombies = cell.strike(failpoints, rounds, **SETTINGS.get(step, {}))
    cell.finish(zombies)
    cell.judge()
    # behind the last commit the job may be over before a fault can strike a second time
    cell.outcome.require(cell.has_struck(step), f"{cell.name}: it never struck")
    cell.save()
