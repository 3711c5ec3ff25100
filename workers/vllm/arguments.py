"""A job's engine in vLLM's own words: the arguments it is loaded with, and the variables it reads."""

from __future__ import annotations

import os
from typing import Any

from parquetry.schemas.settings import settings
from parquetry.workers.checkpoint.adapter import Adapter
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.encoding.outputs.vectors import pooling_of
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.loading.vllm_options import RANKS, pooling_name, rank_of

#: one process is the engine, so that its supervisor sees all of it die; nothing is told to anybody; a pinned CPU
#: engine would share its cores with whoever else is pinned to them
_VARIABLES = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "2",
}
#: a step on a CPU must end before its process seems dead
_CPU_TOKEN_BUDGET = 2048
#: the longest row that fits the memory, up to the model's own length
_LONGEST_THAT_FITS = -1


def set_variables() -> None:
    """Before vLLM is imported. What the operator has set stays, but for the one process."""
    for name, value in _VARIABLES.items():
        os.environ.setdefault(name, value)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"


def engine_arguments(spec: EngineSpec, checkpoint: Checkpoint, dtype: str) -> dict[str, Any]:
    """Keywords of vLLM's EngineArgs."""
    on_cpu = spec.device.startswith("cpu")
    return {
        "model": str(checkpoint.folder),
        "tokenizer": str(checkpoint.tokenizer_folder),
        "dtype": dtype,
        "trust_remote_code": settings().trust_remote_code,
        "quantization": None if spec.model.quantization == "none" else spec.model.quantization,
        "enforce_eager": on_cpu or not spec.model.compile,
        "gpu_memory_utilization": settings().vllm_memory_fraction,
        "tensor_parallel_size": len(spec.devices),
        "disable_log_stats": True,
        # a job's rows are sampled as the job says, and never as the model's folder does
        "generation_config": "vllm",
        **_of_task(spec, checkpoint, on_cpu),
    }


def _of_task(spec: EngineSpec, checkpoint: Checkpoint, on_cpu: bool) -> dict[str, Any]:
    budget = spec.token_budget or (_CPU_TOKEN_BUDGET if on_cpu else None)
    if spec.task == "generate":
        return {"max_num_batched_tokens": budget, **_of_generation(spec, on_cpu)}
    # an encoder computes a text in one piece
    whole = None if budget is None else max(budget, checkpoint.context_window)
    return {"runner": "pooling", "max_num_batched_tokens": whole, **_of_pooling(spec, checkpoint)}


def _of_pooling(spec: EngineSpec, checkpoint: Checkpoint) -> dict[str, Any]:
    if spec.task == "embed":
        return {"convert": "embed", "pooler_config": {"seq_pooling_type": pooling_name(pooling_of(spec, checkpoint))}}
    # a regression's logits are what we make scores of: asked for none, vLLM leaves out the activation of BERT's own
    # pooler too
    return {"convert": "classify", "hf_overrides": {"problem_type": "regression"}}


def _of_generation(spec: EngineSpec, on_cpu: bool) -> dict[str, Any]:
    return {
        "runner": "generate",
        "max_model_len": _LONGEST_THAT_FITS,
        "kv_cache_dtype": spec.model.kv_dtype,
        "enable_prefix_caching": True,
        # the library and the white space of our own engines
        "structured_outputs_config": {"backend": "guidance", "disable_any_whitespace": True},
        **_of_adapters(adapters_of(spec), on_cpu),
    }


def adapters_of(spec: EngineSpec) -> dict[str, Adapter]:
    """By the name that rows call them; the one that is to be merged has the empty name and answers every row."""
    if spec.model.adapter is not None:
        return {"": Adapter.resolve(spec.model.adapter)}
    return {name: Adapter.resolve(folder) for name, folder in (spec.model.adapters or {}).items()}


def _of_adapters(adapters: dict[str, Adapter], on_cpu: bool) -> dict[str, Any]:
    # vLLM's kernels for CPUs take the last place for a row without an adapter: it must stay empty
    if not adapters:
        return {}
    rank = max(map(rank_of, adapters.values()))
    return {
        "enable_lora": True,
        "max_loras": len(adapters) + on_cpu,
        "max_lora_rank": next(known for known in RANKS if rank <= known),
    }
