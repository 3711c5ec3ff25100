"""A rank's own process, started by rank 0.

`python -m parquetry.workers.hosting.rank_process --spec JSON --rank N ...`
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

from parquetry.schemas.log_lines import log_to
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.hosting.failure import is_permanent, sentence
from parquetry.workers.hosting.garbage import not_searched
from parquetry.workers.parallel.channel import StepReceiver
from parquetry.workers.process.leash import die_with_parent
from parquetry.workers.process.pulse import Pulse


def main(arguments: list[str] | None = None) -> int:
    """Load this rank's share and follow rank 0. Whatever goes wrong is told to rank 0 as one sentence."""
    options = parse_arguments(arguments)
    die_with_parent(options.parent)
    form = f"%(asctime)s %(levelname)s rank {options.rank} %(name)s: %(message)s"
    log_to(sys.stderr, form)
    pulse = Pulse(options.pulse)
    try:
        follow(options, pulse)
        return 0
    # the last stop: the process ends either way, and rank 0 must learn why
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        pulse.failed(sentence(error), permanent=is_permanent(error))
        sys.stderr.flush()
        # without the interpreter's last steps, in which a library's threads may abort
        os._exit(1)


def follow(options: argparse.Namespace, pulse: Pulse) -> None:
    """Returns when rank 0 has gone away or serves the model in another way."""
    # the imports here load torch
    with not_searched():
        from parquetry.workers.engine import UnsupportedModel
        from parquetry.workers.hosting.group_loading import load_rank
        from parquetry.workers.packed.together import RankGroupRunner

    spec = EngineSpec.model_validate_json(options.spec)
    step_receiver = StepReceiver(Connection(options.steps, writable=False), pulse.send)
    try:
        engine = load_rank(spec, options.rank, options.store, send_pulse=pulse.send)
    except UnsupportedModel:
        # all ranks have come to this, and rank 0 ends the others
        step_receiver.receive()
        return
    pulse.ready()
    assert isinstance(engine.runner, RankGroupRunner)
    engine.runner.follow(step_receiver)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """What rank 0 tells the process on its command line."""
    parser = argparse.ArgumentParser(prog="python -m parquetry.workers.hosting.rank_process", description=__doc__)
    parser.add_argument("--spec", required=True, help="the EngineSpec of the whole engine as JSON")
    parser.add_argument("--rank", required=True, type=int)
    parser.add_argument("--store", required=True, type=Path, help="the file over which the ranks meet")
    parser.add_argument("--steps", required=True, type=int, help="file descriptor of what rank 0 says")
    parser.add_argument("--pulse", required=True, type=int, help="file descriptor for signs of life")
    parser.add_argument("--parent", required=True, type=int, help="process id of rank 0")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
