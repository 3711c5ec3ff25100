"""On the path of a process, this shifts its wall clock by the seconds in the file CHAOS_CLOCK, read at every look."""

import os
import time
from pathlib import Path

_true_time, _true_time_ns = time.time, time.time_ns


def _off_s() -> float:
    try:
        return float(Path(os.environ["CHAOS_CLOCK"]).read_text() or 0)
    except OSError:
        return 0.0


if "CHAOS_CLOCK" in os.environ:
    time.time = lambda: _true_time() + _off_s()
    time.time_ns = lambda: _true_time_ns() + int(_off_s() * 1e9)
