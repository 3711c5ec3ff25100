"""One case in a process of its own: `python -m tests.chaos.case T5 --profile short --seed 1 --folder DIR`.

The last line it prints is its outcomes as JSON. A case that breaks is an outcome too, with the error as violation.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import traceback
from dataclasses import asdict
from pathlib import Path

from tests.chaos.report import Outcome

#: name -> module below tests.chaos.cases and function
CASES = {
    "T1": "worker_kills:run",
    "T2": "failpoint_grid:run",
    "T3": "drains:run",
    "T4": "lost_permits:run",
    "T5": "long_shards:run",
    "T6": "connections:run_cuts",
    "T7": "connections:run_proxy",
    "T8": "engines:run",
    "T9": "redis_losses:run_restarts",
    "T9b": "redis_losses:run_flush",
    "T9c": "long_outage:run",
    "T10": "redis_losses:run_older",
    "T10b": "redis_losses:run_failover",
    "T13": "last_commits:run",
    "T15": "isolation:run",
    "T16": "clocks:run",
    "T17": "random_errors:run",
    "T19": "ledger_model:run",
    "T21": "bad_attempts:run",
    "T22": "row_retries:run",
    "T23": "lost_work:run",
    "T24": "network_storage:run",
    "everything": "redis_losses:run_everything",
}


def run_case(name: str, profile: str, seed: int, folder: Path) -> list[Outcome]:
    """The outcomes of one case; never raises."""
    module, _, function = CASES[name].partition(":")
    try:
        case = getattr(importlib.import_module(f"tests.chaos.cases.{module}"), function)
        return case(profile, seed, folder)
    # a case that breaks must be a line in the table, and must not hide the others
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        return [Outcome(fault=name, injected=0, violations=[f"{type(error).__name__}: {error}"])]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.case", description=__doc__)
    parser.add_argument("name", choices=CASES)
    parser.add_argument("--profile", choices=("short", "long"), default="short")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    outcomes = run_case(options.name, options.profile, options.seed, options.folder / options.name)
    print(json.dumps([asdict(outcome) for outcome in outcomes]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
