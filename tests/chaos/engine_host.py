"""An engine supervisor in a process of its own, shared by many small jobs: `python -m tests.chaos.engine_host DIR`."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from parquetry.workers.process.supervisor import EngineSupervisor


def main() -> int:
    supervisor = EngineSupervisor("cpu", Path(sys.argv[1]))
    supervisor.start()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    supervisor.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
