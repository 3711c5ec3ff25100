"""The dtype weights are loaded in."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from parquetry.schemas.job import ModelSpec

HALF = ("bfloat16", "float16")
_KNOWN = ("float32", *HALF)


def resolve_dtype(model: ModelSpec, config: Mapping[str, Any], kind: str = "cuda") -> str:
    """float32, bfloat16 or float16 for a device of `kind` (cpu or cuda): what the job says, else by the checkpoint.

    Left open, a GPU computes in the half precision that the weights are stored in, and in bfloat16 where that is
    float32, which it multiplies several times slower. A CPU computes in float32, unless weights stored in bfloat16
    meet one that multiplies it, or quantized weights or flash attention, which know half precision alone.
    """
    if model.dtype != "auto":
        return model.dtype
    if model.quantization == "fp8":
        return "bfloat16"
    needs_half = model.quantization != "none" or model.attention.startswith("flash_attention")
    stored = _stored_dtype(config)
    if kind == "cpu" and not needs_half:
        return stored if stored == "bfloat16" and cpu_multiplies_bf16() else "float32"
    return "bfloat16" if stored == "float32" else stored


@lru_cache(maxsize=1)
def cpu_multiplies_bf16() -> bool:
    """Whether this CPU multiplies bfloat16, at twice the speed of float32; elsewhere that is emulated, slowly."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)


def _stored_dtype(config: Mapping[str, Any]) -> str:
    found = config.get("dtype") or config.get("torch_dtype") or (config.get("text_config") or {}).get("dtype")
    name = str(found or "float32").removeprefix("torch.")
    return name if name in _KNOWN else "float32"
