"""`python -m tests.chaos`: every fault on real processes, and a table of the rows; exit code 1 when one suffered."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.chaos.case import CASES
from tests.chaos.lanes import Task, run_in_lanes
from tests.chaos.plain.faults import FAULTS
from tests.chaos.plain.fleet import PlainOutcome
from tests.chaos.report import (
    HEADER,
    PLAIN_HEADER,
    Comparison,
    Outcome,
    lines,
    markdown_table,
    plain_lines,
    text_table,
)

#: cases at once; they mostly wait for leases to end
LANES = {"short": 6, "long": 2}
#: violations shown of a case; the rest are in its folder
MAX_SHOWN = 10
#: started first, since they take longest
FIRST = ("T2", "T7", "T1", "T8", "T3")


def main() -> int:
    options = _parse()
    folder = Path(tempfile.mkdtemp(prefix="parquetry-chaos-"))
    print(f"profile {options.profile}, seed {options.seed}, logs in {folder}", flush=True)
    begin = time.monotonic()
    tasks = list(_tasks(options, folder))
    results = dict(run_in_lanes(tasks, LANES[options.profile], _say))
    outcomes = [Outcome(**found) for name in CASES for found in results.get(name, [])]
    comparisons = _comparisons(results)
    print(_report(outcomes, comparisons, markdown=options.markdown))
    sound = all(outcome.held for outcome in outcomes)
    if sound and not options.keep:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"\n{'every promise held' if sound else 'NOT every promise held'} in {time.monotonic() - begin:.0f} s")
    return 0 if sound else 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--profile", choices=("short", "long"), default="short", help="long: the full counts, hours")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", metavar="T1,T4", help=f"some of {', '.join(CASES)}, plain")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    parser.add_argument("--keep", action="store_true", help="keep the logs of a sound run, too")
    options = parser.parse_args()
    options.only = [name for name in options.only.split(",") if name] or [*CASES, "plain"]
    if unknown := sorted(set(options.only) - {*CASES, "plain"}):
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(CASES)}, plain")
    return options


def _tasks(options: argparse.Namespace, folder: Path) -> Iterator[Task]:
    common = ["--profile", options.profile, "--seed", str(options.seed), "--folder", str(folder)]
    for name in sorted(CASES, key=lambda name: name not in FIRST):
        if name in options.only:
            yield Task(name, [sys.executable, "-m", "tests.chaos.case", name, *common])
    for name in FAULTS if "plain" in options.only else ():
        for ack in ("early", "late"):
            command = [sys.executable, "-m", "tests.chaos.plain.case", name, ack, *common[2:]]
            yield Task(f"plain {name} {ack}", command)


def _say(task: Task, process: subprocess.CompletedProcess, seconds: float) -> list[dict]:
    """Print one line when a case ends; its outcomes as data."""
    found = json.loads(process.stdout.strip().splitlines()[-1]) if process.stdout.strip() else []
    if not found:
        found = [{"fault": task.name, "injected": 0, "violations": [f"no outcome: {process.stderr.strip()[-300:]}"]}]
    bad = [violation for each in found for violation in each.get("violations", [])]
    print(f"  {task.name:<22} {seconds:5.0f} s  {'; '.join(bad)[:400] or 'ended'}", flush=True)
    return found


def _comparisons(results: dict[str, list[dict]]) -> list[Comparison]:
    found = []
    for name, fault in FAULTS.items():
        pair = [results.get(f"plain {name} {ack}", [{}])[0] for ack in ("early", "late")]
        if all("rows" in each for each in pair):
            early, late = (PlainOutcome(**each) for each in pair)
            recipe = " ".join(fault.__doc__.split()).rstrip(".")
            found.append(Comparison(fault=name, recipe=recipe, early=early, late=late))
    return found


def _report(outcomes: list[Outcome], comparisons: list[Comparison], *, markdown: bool) -> str:
    table = markdown_table if markdown else text_table
    parts = ["", table(HEADER, lines(outcomes))] if outcomes else []
    if comparisons:
        parts += ["", table(PLAIN_HEADER, plain_lines(comparisons))]
    parts += [f"VIOLATED {o.fault}: {violation}" for o in outcomes for violation in o.violations[:MAX_SHOWN]]
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
