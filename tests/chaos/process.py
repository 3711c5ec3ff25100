"""Processes of the harness: leashed to it, logged to a file, and signalled as a whole tree."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Process:
    """One command and everything it starts."""

    def __init__(self, command: Sequence[str], log: Path, **environment: str) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log, self._seen = log, set[int]()
        with log.open("ab") as sink:
            self._popen = subprocess.Popen(
                [sys.executable, "-P", "-m", "parquetry.workers.process.leash", "--parent", str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment_of(environment),
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def is_alive(self) -> bool:
        return self._popen.poll() is None

    @property
    def exit_code(self) -> int | None:
        return self._popen.poll()

    def tree(self) -> list[int]:
        """This process and its living descendants, parents first."""
        return descendants(self.pid)

    def forked_at(self, module: str) -> float:
        """When a process of this tree that runs `module` forked the first of its children, since 1970; 0 if none is."""
        running = {pid for pid in self.tree() if module in _command(pid)}
        children = (pid for pid in running if _parent(Path(f"/proc/{pid}")) in running)
        return min(filter(None, map(_started, children)), default=0.0)

    def signal(self, number: int) -> None:
        """Only the process itself."""
        with suppress(ProcessLookupError):
            self._popen.send_signal(number)

    def freeze(self) -> list[int]:
        """SIGSTOP the whole tree, as if the machine had stalled. Returns who was stopped."""
        frozen: list[int] = []
        # a process stopped later may have started another one meanwhile
        while new := [pid for pid in self.tree() if pid not in frozen]:
            signal_all(new, signal.SIGSTOP)
            frozen += new
        return frozen

    def kill(self) -> None:
        """SIGKILL the whole tree at one instant, as if the power had gone."""
        signal_all(self.freeze(), signal.SIGKILL)
        self._popen.wait()

    def stop(self, grace_s: float) -> float:
        """SIGTERM, SIGKILL after `grace_s`. Returns the seconds it took."""
        begin = time.monotonic()
        self.signal(signal.SIGTERM)
        try:
            self._popen.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.kill()
        return time.monotonic() - begin

    def wait(self, timeout_s: float) -> int:
        """The exit code; subprocess.TimeoutExpired when it is still there."""
        return self._popen.wait(timeout_s)

    def tail(self, lines: int = 20) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def environment_of(extra: Mapping[str, str]) -> dict[str, str]:
    """Ours plus `extra`, with the rooms importable and no setting of the user's in the way."""
    base = {key: value for key, value in os.environ.items() if not key.startswith("PARQUETRY_")}
    path = os.pathsep.join(filter(None, [extra.get("PYTHONPATH"), str(ROOT)]))
    return {**base, "OMP_NUM_THREADS": "1", **extra, "PYTHONPATH": path}


def signal_all(pids: Sequence[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def descendants(root: int) -> list[int]:
    """`root` and its living descendants, parents first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (parent := _parent(entry)) is not None:
            children.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, []))
    return found


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def _started(pid: int) -> float:
    """Seconds since 1970; 0 for a process that is gone."""
    try:
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return 0.0
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")


def _parent(entry: Path) -> int | None:
    try:
        fields = (entry / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[1])


def wait_until(truth: Callable[[], bool], timeout_s: float, what: str, poll_s: float = 0.05) -> float:
    """Seconds until `truth()`; TimeoutError naming `what` when it never came."""
    begin = time.monotonic()
    while not truth():
        if time.monotonic() - begin > timeout_s:
            raise TimeoutError(f"{what}: not within {timeout_s:g} s")
        time.sleep(poll_s)
    return time.monotonic() - begin
