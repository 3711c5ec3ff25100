"""A broker and one worker on this machine, and jobs that run on it to their end."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


@contextmanager
def fleet(
    folder: Path, *, gpus: str, queues: str = "default", settings: Mapping[str, str] | None = None
) -> Iterator[Fleet]:
    """A broker and a worker process on `gpus` ("none", or numbers); its log is `worker.log` in the folder."""
    from parquetry.local.embedded import embedded_server

    with embedded_server() as url:
        paths = os.pathsep.join(filter(None, [str(ROOT), os.getenv("PYTHONPATH")]))
        state = {"PARQUETRY_BROKER_URL": url, "PARQUETRY_STATE_DIR": str(folder / "state"), "PYTHONPATH": paths}
        command = [sys.executable, "-m", "parquetry", "worker", "--gpus", gpus, "--queues", queues]
        with (folder / "worker.log").open("wb") as log:
            worker = subprocess.Popen(command, env={**os.environ, **(settings or {}), **state}, stdout=log, stderr=log)
        try:
            yield Fleet(url, worker, folder / "worker.log")
        finally:
            worker.terminate()
            worker.wait()


class Fleet:
    """What jobs are submitted to."""

    def __init__(self, url: str, worker: subprocess.Popen[bytes], log: Path) -> None:
        self._url, self._worker, self._log = url, worker, log

    def seconds(self, spec: dict[str, Any]) -> float:
        """From submitting a job to its end. Raises RuntimeError when it fails, or when the worker ends before it."""
        from parquetry import submit

        start = time.perf_counter()
        submitted = submit(spec, broker_url=self._url)
        while not (status := submitted.status()).state.is_final:
            if self._worker.poll() is not None:
                raise RuntimeError(f"the worker ended with code {self._worker.returncode}: {self._tail()}")
            time.sleep(0.1)
        if status.state.value != "done":
            raise RuntimeError(f"the job is {status.state.value}: {self._tail()}")
        return time.perf_counter() - start

    def ready_seconds(self) -> float:
        """From the start of the first engine's process to its first batch."""
        return float(re.search(r"engine \d+ is ready after ([\d.]+) s", self._log.read_text(encoding="utf-8"))[1])

    def num_ready(self) -> int:
        """Engines that have loaded a model so far, counted once for every time they did."""
        return len(re.findall(r"engine \d+ is ready after", self._log.read_text(encoding="utf-8")))

    def cpu_seconds(self) -> float:
        """CPU time that the worker and its children have taken so far."""
        taken, parents = {}, {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                fields = stat.read_text().rpartition(")")[2].split()
                pid, parents[int(stat.parent.name)] = int(stat.parent.name), int(fields[1])
                taken[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return sum(seconds for pid, seconds in taken.items() if self._worker.pid in _line(pid, parents))

    def _tail(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace").strip()[-400:]


def _line(pid: int, parents: Mapping[int, int]) -> Iterator[int]:
    """A process, its parent, and so on."""
    while pid in parents:
        yield pid
        pid = parents[pid]
