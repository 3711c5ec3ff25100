"""Which devices a node serves, found without loading CUDA."""

from __future__ import annotations

from parquetry.schemas.errors import WrongSettingError
from parquetry.workers.gpus import visible_gpus


class GpusPerEngineError(WrongSettingError):
    """{gpus} GPUs cannot be shared out in device groups of {size}; change --gpus or --gpus-per-engine."""


def devices(gpus: tuple[str, ...] | None, size: int, cpu_engines: int | None) -> list[str]:
    """Names such as "cuda:0", "cuda:0,1" or "cpu"; one engine each.

    `gpus` None takes every visible one, and the CPU where there is none; `cpu_engines` adds engines on the CPU. Raises
    GpusPerEngineError, and GpuQueryError where the driver must be asked and does not answer.
    """
    found = _all_gpus() if gpus is None and cpu_engines is None else list(gpus or ())
    if len(found) % size:
        raise GpusPerEngineError(gpus=len(found), size=size)
    gpu_devices = [f"cuda:{','.join(found[i : i + size])}" for i in range(0, len(found), size)]
    num_cpu = cpu_engines if cpu_engines is not None else int(not gpu_devices)
    return [*gpu_devices, *["cpu"] * num_cpu]


def _all_gpus() -> list[str]:
    # a number counts the GPUs that this process sees
    return [str(number) for number in range(len(visible_gpus()))]
