"""Starts and stops processes of ours: our modules by name, killed with this process, in a session of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from parquetry.workers.process.leash import leashed

POLL_SECONDS = 0.05


def start(command: Sequence[str], log: IO[bytes], **environment: str) -> subprocess.Popen[bytes]:
    """Start `command` so that it dies with this process, however this process dies.

    The new session keeps a Ctrl-C at the terminal from reaching it: we stop it in our own order.
    """
    return subprocess.Popen(
        leashed(command),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env={**os.environ, **environment},
    )


def module_command(module: str, *arguments: str) -> list[str]:
    """The command that runs one of our modules, found as it was found here: installed, or along PYTHONPATH.

    -P: a file in the working directory must not pass for a module of ours or of the standard library.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


def stop(process: subprocess.Popen[bytes], grace_s: float, is_idle: Callable[[], bool] = lambda: False) -> None:
    """SIGTERM, then SIGKILL after `grace_s` seconds, or as soon as `is_idle` says that nothing is waited for.

    An interrupt while waiting kills at once.
    """
    process.terminate()
    deadline = time.monotonic() + grace_s
    try:
        while process.poll() is None and time.monotonic() < deadline and not is_idle():
            time.sleep(POLL_SECONDS)
    finally:
        process.kill()
        process.wait()


def tail(path: Path, lines: int) -> str:
    """The last lines of a log, the empty string when there is none."""
    with suppress(OSError):
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    return ""
