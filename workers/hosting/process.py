"""The engine's own process, started by its supervisor.

`python -m parquetry.workers.hosting.process --spec JSON --socket PATH --pulse FD --parent PID`
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

from parquetry.schemas.log_lines import log_to
from parquetry.schemas.settings import settings
from parquetry.workers.engine import Engine
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.hosting.failure import is_permanent, repeats, sentence
from parquetry.workers.hosting.garbage import not_searched
from parquetry.workers.process.leash import die_with_parent
from parquetry.workers.process.pulse import Pulse
from parquetry.workers.process.server import EngineServer
from parquetry.workers.process.wire import listen


def main(arguments: list[str] | None = None) -> int:
    """Load the model, then serve it until killed. Whatever goes wrong is told to the supervisor as one sentence."""
    options = _parse(arguments)
    die_with_parent(options.parent)
    log_to(sys.stderr)
    pulse = Pulse(options.pulse)
    server = EngineServer(listen(options.socket), pulse)
    try:
        spec = EngineSpec.model_validate_json(options.spec)
        server.serve(spec, _builder(spec, server, pulse, options.socket.parent))
    # the last stop: the process ends either way, and the supervisor must learn why
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        pulse.failed(sentence(error), permanent=is_permanent(error), repeats=repeats(error))
    return 1


def _builder(spec: EngineSpec, server: EngineServer, pulse: Pulse, folder: Path) -> Callable[[EngineSpec], Engine]:
    """What makes the engine of a spec, of this one first and then of others on the same weights."""
    if factory := settings().engine_factory:
        module, _, name = factory.partition(":")
        return getattr(importlib.import_module(module), name)
    from parquetry.workers.hosting.trial_rows import tried

    with not_searched():
        build = _own_builder(spec, server, pulse, folder)
    return lambda given: tried(build(given), given)


def _own_builder(spec: EngineSpec, server: EngineServer, pulse: Pulse, folder: Path) -> Callable[[EngineSpec], Engine]:
    # the imports here load torch
    if spec.model.backend == "optimum":
        # its environment has a transformers that no other engine runs on
        from parquetry.workers.encoding.onnx.optimum import load_optimum

        return lambda given: load_optimum(given.on(0))
    if spec.model.backend == "vllm":
        # it spreads over a device group by itself
        from parquetry.workers.vllm.loading import load_vllm

        return load_vllm
    if len(spec.devices) > 1:
        from parquetry.workers.hosting.group_host import RankGroupHost

        return RankGroupHost(folder, partial(_die, pulse), server.attend).build
    from parquetry.workers.hosting.model_host import ModelHost

    return ModelHost(server.attend).build


def _die(pulse: Pulse, reason: str, permanent: bool) -> None:
    """End at once, from any thread: the one that drives the engine may wait for a rank that is no more."""
    pulse.failed(reason, permanent=permanent)
    os._exit(1)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m parquetry.workers.hosting.process", description=__doc__)
    parser.add_argument("--spec", required=True, help="the EngineSpec as JSON")
    parser.add_argument("--socket", required=True, type=Path, help="where to listen")
    parser.add_argument("--pulse", required=True, type=int, help="file descriptor for signs of life")
    parser.add_argument("--parent", required=True, type=int, help="process id of the supervisor")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
