"""Logs of earlier runs, no more of them than are worth their room."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

#: bytes of all logs together
MAX_BYTES = 200 << 20
#: seconds for which a log counts as one that is being written
FRESH_S = 3600.0


def prune(folder: Path, max_bytes: int = MAX_BYTES) -> None:
    """Remove the oldest logs in `folder` until the rest takes at most `max_bytes`; fresh ones stay."""
    with suppress(OSError):
        found = sorted(((path.stat(), path) for path in folder.glob("*.log")), key=lambda pair: -pair[0].st_mtime)
        total = 0
        for info, path in found:
            total += info.st_size
            if total > max_bytes and time.time() - info.st_mtime > FRESH_S:
                path.unlink(missing_ok=True)
