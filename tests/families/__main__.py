"""Asks every family of the installed transformers for what it can do, and compares the answers; resumes where it was.

    python -m tests.families [--tasks generate embed] [--families llama bert] [--notes build/families.jsonl]
    python -m tests.families --page

The whole takes a quarter of an hour on 2 cores. Exit code 1 when an answer is wrong.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from parquetry.workers.checkpoint.forecast import FILE
from tests.families.family import TASKS, families
from tests.families.page import forecast, page
from tests.families.sweep import read, sweep

PAGE = Path("docs/models.md")
NOTES = Path("benchmarks/results/families.jsonl")
#: the same of the oldest transformers that we support, in whose environment `--notes` names this file
OLDEST = Path("benchmarks/results/families-oldest.jsonl")


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    if options.page:
        verdicts = read(options.notes)
        PAGE.write_text(page(verdicts, read(OLDEST)), encoding="utf-8")
        FILE.write_text(forecast(verdicts), encoding="utf-8")
        return 0
    # nothing may be fetched: the models are made here
    os.environ["HF_HUB_OFFLINE"] = "1"
    logging.disable(logging.WARNING)
    chosen = [family for task in options.tasks for family in families(task)]
    if options.families:
        chosen = [family for family in chosen if family.kind in options.families]
    num_wrong = 0
    for verdict in sweep(chosen, options.notes):
        print(f"{verdict.task:12} {verdict.kind:24} {verdict.way:18} {verdict.reason[:150]}", flush=True)
        num_wrong += verdict.way == "wrong"
    return 1 if num_wrong else 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.families", description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", nargs="*", default=TASKS, choices=TASKS)
    parser.add_argument("--families", nargs="*", help="model types, all by default")
    parser.add_argument("--notes", type=Path, default=NOTES, help="where verdicts are noted, a line each")
    parser.add_argument("--page", action="store_true", help="write docs/models.md and the families that plan knows")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
