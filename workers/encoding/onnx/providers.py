"""Execution providers of the installed ONNX Runtime, and sessions on them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parquetry.schemas.errors import MissingPackageError, UnsupportedOptionError
from parquetry.schemas.settings import OnnxProvider

if TYPE_CHECKING:
    import onnxruntime

#: share of the free device memory that the runtime's arena may take
_ARENA_SHARE = 0.8
#: short names; ROCm's own provider was dropped by ONNX Runtime, AMD cards run through MIGraphX
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "rocm": "ROCMExecutionProvider",
}
#: providers with compilers of their own, which know ONNX's operators and not those of ONNX Runtime
COMPILERS = ("TensorrtExecutionProvider", "MIGraphXExecutionProvider")


def runtime() -> Any:
    """The onnxruntime module. Raises MissingPackageError."""
    try:
        import onnxruntime
    except ImportError:
        raise MissingPackageError(
            feature="model.backend onnxruntime", package="onnxruntime", install="parquetry[onnx]"
        ) from None
    return onnxruntime


def provider_name(name: OnnxProvider, device: str) -> str:
    """Full name of provider `name` ("auto": by device). Raises UnsupportedOptionError when this build lacks it."""
    short = ("cpu" if device == "cpu" else "cuda") if name == "auto" else name
    full = PROVIDERS[short]
    available = runtime().get_available_providers()
    if full not in available:
        reason = f"the onnxruntime installed here has only {', '.join(available)}"
        if short == "cuda":
            reason += "; install parquetry[onnx-gpu] in place of parquetry[onnx]"
        elif short == "rocm":
            reason += "; ONNX Runtime gave it up in 1.23, so set PARQUETRY_ONNX_PROVIDER=migraphx for AMD cards"
        elif name != "auto":
            reason += "; install a build that has it, or set PARQUETRY_ONNX_PROVIDER=auto"
        raise UnsupportedOptionError(option=f"ONNX Runtime provider {short}", reason=reason)
    return full


def open_session(path: Path, provider: str, options: dict[str, Any] | None = None) -> onnxruntime.InferenceSession:
    """A session whose every node runs on `provider`, or where it lacks one on CUDA for TensorRT, else on the CPU."""
    ort = runtime()
    if provider in (PROVIDERS["cuda"], PROVIDERS["tensorrt"]):
        ort.preload_dlls()
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = num_cores()
    settings.inter_op_num_threads = 1
    others = [PROVIDERS["cuda"]] if provider == PROVIDERS["tensorrt"] else []
    session = ort.InferenceSession(str(path), settings, providers=[(provider, options or {}), *others])
    if provider not in session.get_providers():
        # the runtime falls back to the CPU in silence when a driver or library is missing
        reason = "it is built in but did not start; its driver or libraries are missing on this machine"
        raise UnsupportedOptionError(option=f"ONNX Runtime provider {provider}", reason=reason)
    return session


def cuda_arena(device: int = 0) -> dict[str, Any]:
    """Options of the CUDA provider that bound its memory, once it has run the largest batch.

    Regions that double hold a whole batch in one piece, and what is freed in it is joined again. Regions of just the
    size asked for leave holes between shapes that differ: they grew by 680 MiB in 10,000 batches.
    """
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return {
        "device_id": device,
        "arena_extend_strategy": "kNextPowerOfTwo",
        "gpu_mem_limit": int(free * _ARENA_SHARE),
    }


def num_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
