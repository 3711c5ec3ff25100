"""What the GPUs of a worker are doing, asked of the driver's own program beside everything else."""

from __future__ import annotations

import logging
import shutil
import subprocess
import threading
from collections.abc import Sequence

from parquetry.schemas.progress.status import DeviceUse
from parquetry.workers.engine_needs import of_card
from parquetry.workers.gpus import PROGRAM, Gpu, GpuQueryError, visible_gpus

log = logging.getLogger(__name__)
EVERY_S = 5.0
QUERY = ("--query-gpu=uuid,utilization.gpu,memory.used,memory.total", "--format=csv,noheader,nounits")
QUERY_SECONDS = 20.0
MIB = 1 << 20


def gpus_of(device: str) -> list[Gpu]:
    """The GPUs of "cuda:0" or "cuda:0,1"; none of "cpu", nor where the driver does not tell."""
    kind, _, numbers = device.partition(":")
    if kind != "cuda":
        return []
    try:
        visible = visible_gpus()
    except GpuQueryError as error:
        log.warning("%s", error)
        return []
    chosen = [_chosen(name, visible) for name in numbers.split(",")]
    return [gpu for gpu in chosen if gpu is not None]


def _chosen(name: str, visible: Sequence[Gpu]) -> Gpu | None:
    if name.isdecimal():
        return visible[int(name)] if int(name) < len(visible) else None
    return next((gpu for gpu in visible if gpu.uuid.startswith(name)), None)


def offered_by(device: str) -> tuple[str, ...]:
    """What a device offers to engines beside the packages that are installed."""
    gpus = gpus_of(device)
    return of_card(min(gpu.capability for gpu in gpus)) if gpus else ()


class GpuMeter:
    """Asks every few seconds, in a thread of its own: the driver may take its time."""

    def __init__(self, gpus: Sequence[Gpu], program: str) -> None:
        self._gpus = gpus
        self._program = program
        #: as it was told last
        self.use = DeviceUse(name=gpus[0].name)
        threading.Thread(target=self._run, name="gpu-meter", daemon=True).start()

    @classmethod
    def of(cls, device: str) -> GpuMeter | None:
        """The meter of a device; None for a CPU, and where there is no driver to ask."""
        gpus, program = gpus_of(device), shutil.which(PROGRAM)
        return cls(gpus, program) if gpus and program else None

    def _run(self) -> None:
        while True:
            self.use = self._ask()
            threading.Event().wait(EVERY_S)

    def _ask(self) -> DeviceUse:
        try:
            answer = subprocess.run([self._program, *QUERY], capture_output=True, text=True, timeout=QUERY_SECONDS)
        except (OSError, subprocess.TimeoutExpired):
            return DeviceUse(name=self._gpus[0].name)
        return read_use(answer.stdout, self._gpus)


def read_use(answer: str, gpus: Sequence[Gpu]) -> DeviceUse:
    """What the driver's program answered, of these GPUs; a MIG instance is not among those it tells of."""
    rows = [[cell.strip() for cell in line.split(",")] for line in answer.splitlines()]
    uuids = {gpu.uuid for gpu in gpus}
    mine = [row for row in rows if len(row) == 4 and row[0] in uuids and all(cell.isdecimal() for cell in row[1:])]
    if not mine:
        return DeviceUse(name=gpus[0].name)
    return DeviceUse(
        name=gpus[0].name,
        use=sum(int(row[1]) for row in mine) / len(mine) / 100,
        memory_used_bytes=sum(int(row[2]) for row in mine) * MIB,
        memory_total_bytes=sum(int(row[3]) for row in mine) * MIB,
    )
