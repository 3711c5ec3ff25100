"""Which GPUs this machine has, without loading CUDA."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TypeVar

from parquetry.schemas.settings import visible_gpus
from parquetry.workers.loading.card import Card

T = TypeVar("T")

QUERY = ("--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
CARD_QUERY = ("--query-gpu=name,compute_cap,memory.total", "--format=csv,noheader,nounits")
QUERY_SECONDS = 20.0


class GpuQueryError(Exception):
    """The driver is there but does not answer."""


def visible_names() -> list[str]:
    """Name, memory and driver of every GPU; empty without a driver or with an empty CUDA_VISIBLE_DEVICES.

    Raises GpuQueryError when there is a driver that cannot be asked.
    """
    if visible_gpus() == []:
        return []
    if program := shutil.which("nvidia-smi"):
        return _ask_program(program)
    return _ask_library(_library_name) if find_spec("pynvml") else []


def visible_cards() -> list[Card]:
    """Every GPU as loading sees it; empty where `visible_names` is.

    Raises GpuQueryError when there is a driver that cannot be asked, or one too old to know compute capabilities.
    """
    if visible_gpus() == []:
        return []
    if program := shutil.which("nvidia-smi"):
        return [_card(line) for line in _ask_program(program, CARD_QUERY)]
    return _ask_library(_library_card) if find_spec("pynvml") else []


def _card(line: str) -> Card:
    try:
        name, capability, mebibytes = (part.strip() for part in line.rsplit(",", 2))
        major, minor = capability.split(".")
        return Card("cuda", name, (int(major), int(minor)), int(mebibytes) << 20)
    except ValueError:
        raise GpuQueryError(f"nvidia-smi says {line!r} where a name, a capability and a size were asked for") from None


def _ask_program(program: str, query: Sequence[str] = QUERY) -> list[str]:
    try:
        answer = subprocess.run([program, *query], capture_output=True, text=True, timeout=QUERY_SECONDS, check=True)
    except subprocess.CalledProcessError as error:
        raise GpuQueryError(f"nvidia-smi failed: {(error.stdout + error.stderr).strip()[:300]}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GpuQueryError(f"nvidia-smi failed: {error}") from None
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()]


def _library_name(handle: object) -> str:
    import pynvml

    return str(pynvml.nvmlDeviceGetName(handle))


def _library_card(handle: object) -> Card:
    import pynvml

    capability = tuple(pynvml.nvmlDeviceGetCudaComputeCapability(handle))
    return Card("cuda", _library_name(handle), capability, int(pynvml.nvmlDeviceGetMemoryInfo(handle).total))


def _ask_library(describe: Callable[[object], T]) -> list[T]:
    import pynvml

    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return [describe(handle) for handle in handles]
    except pynvml.NVMLError_LibraryNotFound:
        return []
    except pynvml.NVMLError as error:
        raise GpuQueryError(f"NVML failed: {error}") from None
