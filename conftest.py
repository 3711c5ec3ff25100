"""How fast the machine happens to be decides no test. Not in tests/, whose folders would hide packages so named."""

from __future__ import annotations

import gc
import os
from importlib.util import find_spec
from pathlib import Path

# engines made for tests lie in tests/: processes that the suite starts find them there
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))

# the suite runs on as many processes as there are cores, and every engine on all of them would only wait for the others
os.environ.setdefault("OMP_NUM_THREADS", "1")

# imports and thousands of tests that are collected make no garbage: it is not searched for before the first test runs
gc.disable()


def pytest_collection_finish() -> None:
    """What is imported by now stays, so that no search for garbage looks through it again."""
    gc.freeze()
    gc.enable()


# a host that only runs the tests of a card has no need of it
if find_spec("hypothesis") is not None:
    from hypothesis import HealthCheck, settings

    settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("any-machine")
