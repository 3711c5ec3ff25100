"""Which GPUs this process may use, asked of the driver's own program: CUDA is not loaded for it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from parquetry.schemas.errors import UnusableEnvironmentError
from parquetry.schemas.settings import cuda_visible_devices
from parquetry.workers.card import Card, cpu_card

PROGRAM = "nvidia-smi"
QUERY = ("--query-gpu=uuid,compute_cap,memory.total,driver_version,name", "--format=csv,noheader,nounits")
QUERY_SECONDS = 20.0
NO_DEVICES = "No devices were found"
#: `nvidia-smi -L`: "GPU 0: NVIDIA A100 (UUID: GPU-8a56)", and below it "  MIG 3g.20gb  Device  0: (UUID: MIG-1f0c)"
_LISTED = re.compile(r"(?:GPU \d+:|MIG (?P<profile>\S*?\.(?P<gigabytes>\d+)gb\S*)).*\(UUID: (?P<uuid>\S+)\)")


class GpuQueryError(UnusableEnvironmentError):
    """The GPU driver does not answer ({reason}); reinstall it or restart the machine, name the GPUs with --gpus, or use
    --gpus none for the CPU."""

    @property
    def reason(self) -> str:
        """What the driver's program said."""
        return str(self.fields["reason"])


@dataclass(frozen=True)
class Gpu:
    """One GPU, or one MIG instance of a GPU, as the driver tells of it."""

    name: str
    uuid: str
    #: compute capability
    capability: tuple[int, int]
    total_bytes: int
    #: version of the driver
    driver: str

    @property
    def card(self) -> Card:
        """The GPU as loading sees it."""
        return Card("cuda", self.name, self.capability, self.total_bytes)


def visible_gpus() -> list[Gpu]:
    """What CUDA would show this process, in its order: CUDA's device n is item n. Empty without a driver.

    CUDA_VISIBLE_DEVICES counts as it does for CUDA: numbers, UUIDs or the beginnings of UUIDs, and names of MIG
    instances. Raises GpuQueryError when there is a driver that cannot be asked.
    """
    names, program = cuda_visible_devices(), shutil.which(PROGRAM)
    if names == [] or program is None:
        return []
    gpus = [_gpu(line) for line in _ask(program, *QUERY)]
    if names is None:
        return gpus
    instances = list(_mig_instances(program, gpus)) if any(name.startswith("MIG-") for name in names) else []
    return _chosen(names, gpus, instances)


def smallest_gpu_bytes() -> int | None:
    """Memory of the smallest visible GPU, None where there is none. Raises GpuQueryError."""
    return min((gpu.total_bytes for gpu in visible_gpus()), default=None)


def _chosen(names: Sequence[str], gpus: Sequence[Gpu], instances: Sequence[Gpu]) -> list[Gpu]:
    """CUDA shows nothing from the first unknown name on, and nothing at all when a GPU is named twice."""
    found: list[Gpu] = []
    for name in names:
        gpu = _named(name, gpus, instances)
        if gpu is None:
            break
        if gpu in found:
            return []
        found.append(gpu)
    return found


def _named(name: str, gpus: Sequence[Gpu], instances: Sequence[Gpu]) -> Gpu | None:
    if name.isdecimal():
        return gpus[int(name)] if int(name) < len(gpus) else None
    if not name.startswith(("GPU-", "MIG-")):
        return None
    matching = [gpu for gpu in (*gpus, *instances) if gpu.uuid.startswith(name)]
    return matching[0] if len(matching) == 1 else None


def _gpu(line: str) -> Gpu:
    try:
        uuid, capability, mebibytes, driver, name = (part.strip() for part in line.split(",", 4))
        major, minor = capability.split(".")
    except ValueError:
        raise GpuQueryError(reason=f"{PROGRAM} says {line!r} where a GPU was asked for") from None
    # a GPU that shares the machine's memory has no size of its own
    total_bytes = int(mebibytes) << 20 if mebibytes.isdecimal() else cpu_card().total_bytes
    return Gpu(name, uuid, (int(major), int(minor)), total_bytes, driver)


def _mig_instances(program: str, gpus: Sequence[Gpu]) -> Iterator[Gpu]:
    """Every MIG instance, below the GPU it is cut from. Their sizes are said in their names alone, rounded up."""
    by_uuid = {gpu.uuid: gpu for gpu in gpus}
    whole = None
    for found in filter(None, map(_LISTED.search, _ask(program, "-L"))):
        if found["profile"] is None:
            whole = by_uuid.get(found["uuid"])
        elif whole is not None:
            name = f"{whole.name} MIG {found['profile']}"
            yield replace(whole, name=name, uuid=found["uuid"], total_bytes=int(found["gigabytes"]) * 10**9)


def _ask(program: str, *arguments: str) -> list[str]:
    try:
        answer = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=QUERY_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GpuQueryError(reason=str(error)[:300]) from None
    if NO_DEVICES in answer.stdout:
        return []
    if answer.returncode:
        said = " ".join((answer.stdout + answer.stderr).split())[:300]
        raise GpuQueryError(reason=f"{PROGRAM} failed: {said.rstrip('.') or f'exit code {answer.returncode}'}")
    return [line for line in answer.stdout.splitlines() if line.strip()]
