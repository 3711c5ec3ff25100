"""The dtype weights are loaded in, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.loading.bf16_speed import cpu_bf16

HALF = ("bfloat16", "float16")
_KNOWN = ("float32", *HALF)
_STORED = "the weights are stored in it"


@dataclass(frozen=True)
class Precision:
    """float32, bfloat16 or float16, and the reason in words that fit a log line."""

    dtype: str
    reason: str


def choose_precision(model: ModelSpec, config: Mapping[str, Any], kind: str = "cuda") -> Precision:
    """The precision on a device of `kind` (cpu or cuda): what the job says, else by the checkpoint and the device.

    Left open, a GPU computes in the half precision that the weights are stored in, and in bfloat16 where that is
    float32, which it multiplies several times slower. A CPU computes in float32, except
    weights stored in bfloat16 where it multiplies bfloat16 faster; quantizations and flash attention exist in half
    precision alone.
    """
    if model.dtype != "auto":
        return Precision(model.dtype, "model.dtype names it")
    if model.quantization == "fp8":
        return Precision("bfloat16", "fp8 products take no other")
    stored = _stored_dtype(config)
    needs_half = model.quantization != "none" or model.attention.startswith("flash_attention")
    if kind == "cpu" and not needs_half:
        return _on_cpu(stored)
    if stored == "float32":
        return Precision("bfloat16", "weights stored in float32 are computed in half precision here")
    return Precision(stored, _STORED)


def _on_cpu(stored: str) -> Precision:
    if stored != "bfloat16":
        return Precision("float32", _STORED if stored == "float32" else f"a CPU multiplies it faster than {stored}")
    verdict = cpu_bf16()
    return Precision("bfloat16" if verdict.is_fast else "float32", verdict.reason)


def _stored_dtype(config: Mapping[str, Any]) -> str:
    configs = (config, config.get("text_config") or {})
    found = next((one[key] for one in configs for key in ("dtype", "torch_dtype") if one.get(key)), None)
    name = str(found or "float32").removeprefix("torch.")
    return name if name in _KNOWN else "float32"
