"""Which devices a node serves, found without loading CUDA."""

from __future__ import annotations

import shutil
import subprocess

from parquetry.schemas.errors import UnusableEnvironmentError
from parquetry.schemas.settings import visible_gpus

QUERY_S = 20.0


class GpusPerEngineError(UnusableEnvironmentError):
    """{gpus} GPUs cannot be shared out in groups of {group}; change --gpus or --gpus-per-engine."""


class NoDriverAnswerError(UnusableEnvironmentError):
    """nvidia-smi does not answer ({reason}); name the GPUs with --gpus, or use --gpus none for the CPU."""


def devices(gpus: tuple[str, ...] | None, group: int, cpu_engines: int | None) -> list[str]:
    """Names such as "cuda:0", "cuda:0,1" or "cpu"; one engine each.

    `gpus` None takes every visible one, and the CPU where there is none; `cpu_engines` adds engines on the CPU.
    """
    found = _all_gpus() if gpus is None and cpu_engines is None else list(gpus or ())
    if len(found) % group:
        raise GpusPerEngineError(gpus=len(found), group=group)
    grouped = [f"cuda:{','.join(found[i : i + group])}" for i in range(0, len(found), group)]
    num_cpu = cpu_engines if cpu_engines is not None else int(not grouped)
    return [*grouped, *["cpu"] * num_cpu]


def _all_gpus() -> list[str]:
    allowed = visible_gpus()
    if allowed is not None:
        # a number counts the GPUs that this process sees
        return [str(number) for number in range(len(allowed))]
    program = shutil.which("nvidia-smi")
    return [] if program is None else _ask(program)


def _ask(program: str) -> list[str]:
    query = [program, "--query-gpu=index", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=QUERY_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise NoDriverAnswerError(reason=str(error)[:200]) from None
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()]
