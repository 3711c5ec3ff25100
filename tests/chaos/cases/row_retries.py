"""T22: a worker that retries error rows, or whoever begins the retry, is killed, stopped beyond its lease, or given an
exception at every named step of it, on disk and on S3."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path

from tests.chaos.cases.failpoint_grid import ACTIONS
from tests.chaos.cell import TIMEOUT_S, Cell
from tests.chaos.cell_block import CellBlock, total
from tests.chaos.forked import Forked
from tests.chaos.process import ROOT
from tests.chaos.report import Outcome

#: rows with a 7 are error rows with this one; the retry has the other
FAILS, WORKS = "{{ (text if '7' not in text else 1 // 0) }}", "{{ text }}"
#: steps of whoever begins a retry; where that is stopped for good, the lock it holds ends by itself
OF_THE_CLIENT = ("retry_opened", "retry_unmarked", "retry_noted")
MIN_STEPS = 9


def steps() -> list[str]:
    """Every failpoint of a retry that there is in the code."""
    sources = (path.read_text() for path in sorted((ROOT / "tasks").rglob("*.py")))
    return sorted({name for source in sources for name in re.findall(r'failpoint\("(retry_\w+)"\)', source)})


def run(profile: str, seed: int, folder: Path) -> list[Outcome]:
    with CellBlock(folder, s3=True) as block:
        names = steps()
        outcomes = block.run(_drivers(block, names))
        line = total(f"T22 kill, stop, raise at {len(names)} steps of a retry of rows, disk and S3", outcomes)
        line.require(len(names) >= MIN_STEPS, f"only {len(names)} failpoints")
        line.note = f"{len(outcomes)} cells"
        return [line]


def _drivers(block: CellBlock, names: list[str]) -> Iterator[Callable[[], None]]:
    for step, action, s3 in product(names, ACTIONS, (False, True)):
        yield partial(_cell, block, step, action, s3)


def _cell(block: CellBlock, step: str, action: str, s3: bool) -> None:
    cell = block.cell(f"{step}-{action}-{'s3' if s3 else 'disk'}", s3=s3, prompt={"template": FAILS})
    cell.submit()
    cell.finish([])
    zombies = []
    if step in OF_THE_CLIENT:
        client = _begin(cell, f"{step}:{action}")
        zombies += [client] if client.settle(TIMEOUT_S) == "stopped" else []
        # the reconciler of a worker ends what was begun and left
        cell.finish([])
    _begin(cell, "").settle(TIMEOUT_S)
    if step not in OF_THE_CLIENT:
        zombies += cell.strike(f"{step}:{action}", 1)
    cell.finish(zombies)
    cell.judge()
    cell.outcome.require(cell.has_struck(step), f"{cell.name}: it never struck")
    cell.save()


def _begin(cell: Cell, failpoints: str) -> Forked:
    """Begin a retry in a process of its own; once more while another is at it."""

    def begin() -> None:
        import time

        from parquetry.api.job import Job
        from parquetry.schemas.errors import ParquetryError
        from parquetry.tasks.broker.connection import connect
        from parquetry.tasks.ledger.ledger import Ledger

        job = Job(cell.job.id, cell.job.output, Ledger(connect(cell.server.url), cell.name))
        while True:
            try:
                job.retry(rows=True, changes={"prompt.template": WORKS})
                return
            except ParquetryError as error:
                if not error.retryable or "failpoint" in str(error):
                    raise
                time.sleep(0.1)

    return Forked(begin, cell.folder / "log", **{**cell.environment, "PARQUETRY_FAILPOINTS": failpoints})
