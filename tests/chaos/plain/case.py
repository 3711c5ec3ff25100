"""One fault on plain Celery: `python -m tests.chaos.plain.case T1 late --seed 1 --folder DIR`; prints JSON."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from tests.chaos.plain.faults import FAULTS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.plain.case", description=__doc__)
    parser.add_argument("name", choices=FAULTS)
    parser.add_argument("ack", choices=("early", "late"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    folder = options.folder / f"plain-{options.name.replace(' ', '-')}-{options.ack}"
    folder.mkdir(parents=True)
    outcome = FAULTS[options.name](folder, options.ack == "late", options.seed)
    print(json.dumps([asdict(outcome)]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
