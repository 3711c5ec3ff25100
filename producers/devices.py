"""How much memory the GPUs of this machine have, asked without loading CUDA."""

from __future__ import annotations

import shutil
import subprocess

from parquetry.schemas.settings import visible_gpus

_QUERY = ("--query-gpu=memory.total", "--format=csv,noheader,nounits")
_QUERY_SECONDS = 20.0


def smallest_gpu_bytes() -> int | None:
    """Memory of the smallest GPU in bytes; None where there is none or its driver does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None or visible_gpus() == []:
        return None
    try:
        answer = subprocess.run([program, *_QUERY], capture_output=True, text=True, timeout=_QUERY_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return min((int(line) << 20 for line in answer.stdout.split() if line.isdigit()), default=None)
