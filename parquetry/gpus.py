"""Which GPUs this machine has, without loading CUDA."""

from __future__ import annotations

import shutil
import subprocess
from importlib.util import find_spec

from schemas.settings import visible_gpus

QUERY = ("--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
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
    return _ask_library() if find_spec("pynvml") else []


def _ask_program(program: str) -> list[str]:
    try:
        answer = subprocess.run([program, *QUERY], capture_output=True, text=True, timeout=QUERY_SECONDS, check=True)
    except subprocess.CalledProcessError as error:
        raise GpuQueryError(f"nvidia-smi failed: {(error.stdout + error.stderr).strip()[:300]}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GpuQueryError(f"nvidia-smi failed: {error}") from None
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()]


def _ask_library() -> list[str]:
    import pynvml

    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return [str(pynvml.nvmlDeviceGetName(handle)) for handle in handles]
    except pynvml.NVMLError_LibraryNotFound:
        return []
    except pynvml.NVMLError as error:
        raise GpuQueryError(f"NVML failed: {error}") from None
