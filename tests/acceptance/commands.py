"""Starts `parquetry` as a user does, and looks at the processes it leaves."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
#: nothing here is timed; these only end a test that hangs
COMMAND_SECONDS = 200
WAIT_SECONDS = 100


@dataclass(frozen=True)
class Shell:
    """A folder to work in and an environment; every process started here carries `mark`."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    #: what `parquetry` is here
    program: tuple[str, ...] = (sys.executable, "-m", "parquetry")

    @property
    def mark(self) -> str:
        """A variable of the environment that tells our processes from all others."""
        return f"PARQUETRY_STATE_DIR={self.folder / 'state'}"

    def with_broker(self, url: str) -> Shell:
        """The same shell with PARQUETRY_BROKER_URL set."""
        return replace(self, environment={**self.environment, "PARQUETRY_BROKER_URL": url})

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(**self._parquetry(arguments), capture_output=True, text=True, timeout=COMMAND_SECONDS)

    @contextmanager
    def start(self, *arguments: object) -> Iterator[subprocess.Popen]:
        """A command that runs while the context lasts; its output goes to a file beside it."""
        log = self.folder / f"{arguments[0]}-{time.monotonic_ns()}.log"
        with log.open("wb") as sink:
            process = subprocess.Popen(**self._parquetry(arguments), stdout=sink, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()

    def spec(self, name: str, **sections: object) -> Path:
        """A job spec in a file."""
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(sections))
        return path

    def processes(self) -> dict[int, str]:
        """Command lines, by process id, of the living processes that were started from this shell."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and (line := self._command_line(entry)):
                found[int(entry.name)] = line
        return found

    def _command_line(self, process: Path) -> str:
        try:
            if self.mark.encode() not in (process / "environ").read_bytes().split(b"\0"):
                return ""
            return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            return ""

    def _parquetry(self, arguments: tuple[object, ...]) -> dict:
        return self.arguments([*self.program, *map(str, arguments)])

    def arguments(self, command: list[str]) -> dict:
        """What subprocess needs to run `command` here."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PARQUETRY_", "PYTHON"))}
        state = dict([self.mark.split("=", 1)])
        environment = {**inherited, **state, **self.environment}
        return {"args": command, "cwd": self.folder, "env": environment}


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Poll until `condition` holds; the limit only ends a test that would hang."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited {WAIT_SECONDS} s for {what}"
        time.sleep(0.05)
