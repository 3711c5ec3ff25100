"""What a job may ask of vLLM, refused by name before any weights are read. Imports neither torch nor vLLM."""

from __future__ import annotations

from collections.abc import Iterator

from parquetry.schemas.errors import (
    AdapterMismatchError,
    UnsupportedAttentionError,
    UnsupportedOptionError,
    UnsupportedQuantizationError,
)
from parquetry.schemas.spec.job import ModelSpec, Task
from parquetry.workers.checkpoint.adapter import Adapter
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.checkpoint.pooling import modes_of
from parquetry.workers.engine_spec import OTHER_RUNTIMES

#: our poolings, by vLLM's name
POOLINGS = {"cls": "CLS", "mean": "MEAN", "last": "LAST"}
#: ranks that vLLM has kernels for
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


def check_options(model: ModelSpec) -> None:
    """Raise UnsupportedAttentionError, UnsupportedQuantizationError or UnsupportedOptionError."""
    if model.attention != "auto":
        reason = "model.backend vllm chooses its kernels itself"
        raise UnsupportedAttentionError(attention=model.attention, reason=reason, supported="auto")
    if model.quantization not in OTHER_RUNTIMES["vllm"]:
        # weights that were quantized ahead need no word
        reason = f"model.backend vllm makes {' and '.join(OTHER_RUNTIMES['vllm'])}; model.backend auto has the others"
        raise UnsupportedQuantizationError(quantization=model.quantization, reason=reason)
    if model.max_memory is not None:
        reason = "vLLM takes a share of the card, PARQUETRY_VLLM_MEMORY_FRACTION; leave it out, or set it to auto"
        raise UnsupportedOptionError(option="model.max_memory with model.backend vllm", reason=reason)


def check_task(task: Task, model: ModelSpec) -> None:
    """Raise UnsupportedOptionError for an adapter where rows become vectors or labels."""
    named = next((key for key in ("adapter", "adapters") if getattr(model, key) is not None), None)
    if task != "generate" and named is not None:
        reason = "model.backend vllm has adapters for task generate; set model.backend to auto"
        raise UnsupportedOptionError(option=f"model.{named} for task {task}", reason=reason)


def check_adapter(adapter: Adapter, checkpoint: Checkpoint) -> None:
    """Raise AdapterMismatchError for what vLLM cannot keep beside the weights."""
    for reason in _obstacles(adapter):
        name = str(adapter.folder)
        raise AdapterMismatchError(adapter=name, model=checkpoint.id, reason=f"{reason}; set model.backend to auto")


def _obstacles(adapter: Adapter) -> Iterator[str]:
    if adapter.config.get("use_dora"):
        yield "it is a DoRA adapter, which model.backend vllm does not know"
    if adapter.config.get("modules_to_save"):
        yield "it brings whole layers (modules_to_save), which model.backend vllm does not take"
    if rank_of(adapter) > RANKS[-1]:
        yield f"its rank is {rank_of(adapter)}, and model.backend vllm takes at most {RANKS[-1]}"


def rank_of(adapter: Adapter) -> int:
    """The largest rank of its layers."""
    patterns = adapter.config.get("rank_pattern") or {}
    return max([int(adapter.config.get("r", 8)), *map(int, patterns.values())])


def pooling_name(pooling: str) -> str:
    """vLLM's name of a pooling. Raises UnsupportedOptionError for one that it lacks."""
    if pooling not in POOLINGS:
        what = " and ".join(modes_of(pooling))
        reason = f"model.backend vllm pools by {', '.join(POOLINGS)}; set model.backend to auto"
        raise UnsupportedOptionError(option=f"embed.pooling {what}", reason=reason)
    return POOLINGS[pooling]
