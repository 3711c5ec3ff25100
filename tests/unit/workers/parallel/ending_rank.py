"""A rank that ends as PARQUETRY_TEST_ENDINGS says for its number: it tells a failure (late: when another is killed),
is killed, or both.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from parquetry.workers.hosting.rank_process import parse_arguments
from parquetry.workers.process.pulse import Pulse

if __name__ == "__main__":
    options = parse_arguments(sys.argv[1:])
    ending = os.environ["PARQUETRY_TEST_ENDINGS"].split(",")[options.rank - 1]
    killed = options.store.with_name("killed")
    while "late" in ending and not killed.exists():
        time.sleep(0.05)
    if "told" in ending:
        Pulse(options.pulse).failed(f"the failure of {options.rank}", permanent=True)
    if "killed" in ending:
        killed.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60 if ending == "alive" else 0)
