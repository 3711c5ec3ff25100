"""Engine factories that never bring an engine up; for PARQUETRY_ENGINE_FACTORY."""

from __future__ import annotations

import time
from typing import NoReturn

from parquetry.workers.engine_spec import EngineSpec
from tests.chaos.echo_engine import EchoEngine


def fails_to_load(spec: EngineSpec) -> NoReturn:
    """What a driver that is too old looks like."""
    raise OSError("libcudart.so.12: cannot open shared object file")


def hangs_while_loading(spec: EngineSpec) -> NoReturn:
    """What a network drive that has gone away looks like."""
    while True:
        time.sleep(3600)


def runs_out_of_memory(spec: EngineSpec) -> EchoEngine:
    """It loads, and every step is too much for the device."""
    return _TooSmall(None, 1.0)


class _TooSmall(EchoEngine):
    def step(self) -> NoReturn:
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
