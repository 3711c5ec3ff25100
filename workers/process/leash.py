"""Ties the life of a process to its parent's: when the parent goes, however it goes, the child is killed."""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1
_POLL_S = 0.5


def die_with_parent(parent: int | None = None) -> None:
    """Have the kernel kill this process when its parent dies.

    `parent` is the process id the caller knows to be its parent: when that one is already gone, this process exits at
    once. On Linux the parent is really the parent's thread that started us, so a process is leashed to a thread that
    lives as long as it should. Elsewhere a thread polls getppid.
    """
    expected = parent if parent is not None else os.getppid()
    if sys.platform == "linux":
        _set_death_signal(signal.SIGKILL)
    else:
        threading.Thread(target=_watch_parent, args=(expected,), name="leash", daemon=True).start()
    if os.getppid() != expected:
        os._exit(1)


def _set_death_signal(number: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_S)
    os.kill(os.getpid(), signal.SIGKILL)


def leashed(command: Sequence[str]) -> list[str]:
    """The command line that runs `command` leashed to the calling thread."""
    # as a file, so that it starts whatever the working directory and the search path are
    return [sys.executable, "-P", __file__, "--parent", str(os.getpid()), *command]


def _run_watched(command: list[str], parent: int) -> int:
    """Where no death signal survives exec: stay in between and kill the command when the parent goes."""
    child = subprocess.Popen(command)
    while child.poll() is None:
        if os.getppid() != parent:
            child.kill()
        time.sleep(_POLL_S)
    return child.returncode


def main(arguments: list[str] | None = None) -> int:
    """`python -m parquetry.workers.process.leash [--parent PID] COMMAND ARGS...`"""
    parser = argparse.ArgumentParser(prog="python -m parquetry.workers.process.leash", description=__doc__)
    parser.add_argument("--parent", type=int, default=None)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args(arguments)
    if not options.command:
        parser.error("a command to run is required")
    die_with_parent(options.parent)
    if sys.platform == "linux":
        os.execvp(options.command[0], options.command)
    return _run_watched(options.command, os.getppid())


if __name__ == "__main__":
    sys.exit(main())
