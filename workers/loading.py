"""Loads the weights of an engine: dtype, quantization, attention, devices and adapter as the spec asks."""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import BitsAndBytesConfig
from transformers.utils import logging as transformers_logging

from schemas.errors import MissingPackageError, UnsupportedOptionError
from schemas.settings import settings
from workers.checkpoint import Checkpoint, adapter_folder
from workers.engine_spec import EngineSpec

_KERNELS = {
    "sdpa-flash": SDPBackend.FLASH_ATTENTION,
    "sdpa-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "sdpa-math": SDPBackend.MATH,
    "sdpa-cudnn": SDPBackend.CUDNN_ATTENTION,
}
_FLASH_PACKAGES = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}
_BITS_AND_BYTES = ("int8", "nf4", "fp4")


def load_model(spec: EngineSpec, checkpoint: Checkpoint, auto_class: Any, **options: Any) -> nn.Module:
    """The model in eval mode on its device, through a transformers Auto class.

    Safetensors only, no code from the folder unless the operator allows it. Raises MissingPackageError and
    UnsupportedOptionError with what to change.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    model = auto_class.from_pretrained(
        checkpoint.folder,
        dtype=load_dtype(spec),
        use_safetensors=True,
        trust_remote_code=settings().trust_remote_code,
        local_files_only=True,
        **_attention_options(spec),
        **_quantization_options(spec),
        **_device_options(spec),
        **options,
    )
    if spec.model.adapter is not None:
        model = _with_adapter(model, spec.model.adapter)
    if spec.model.quantization == "none" and getattr(model, "hf_device_map", None) is None:
        model = model.to(spec.device)
    if spec.model.attention in _KERNELS:
        _pin_kernel(model, _KERNELS[spec.model.attention])
    return model.eval().requires_grad_(False)


def load_dtype(spec: EngineSpec) -> torch.dtype | str:
    """The spec's dtype; auto is the checkpoint's, but float32 on a CPU, where half precision is slow."""
    if spec.model.dtype != "auto":
        return getattr(torch, spec.model.dtype)
    return torch.float32 if spec.device == "cpu" else "auto"


def _attention_options(spec: EngineSpec) -> dict[str, Any]:
    attention = spec.model.attention
    if attention == "auto":
        return {}
    if attention == "triton":
        reason = "only the packed engine has it; set model.backend to packed"
        raise UnsupportedOptionError(option="model.attention triton", reason=reason)
    package = _FLASH_PACKAGES.get(attention)
    if package is not None:
        if spec.device == "cpu":
            raise UnsupportedOptionError(option=f"model.attention {attention}", reason="it needs a GPU; use sdpa")
        _require(package, f"attention {attention}", "parquetry[flash]")
    return {"attn_implementation": "sdpa" if attention in _KERNELS else attention}


def _pin_kernel(model: nn.Module, kernel: SDPBackend) -> None:
    """Let torch's scaled dot product use this kernel only; a shape it cannot do is then an error, not a slow path."""
    forward = model.forward

    @functools.wraps(forward)
    def pinned(*args: Any, **kwargs: Any) -> Any:
        with sdpa_kernel(kernel):
            return forward(*args, **kwargs)

    model.forward = pinned


def _quantization_options(spec: EngineSpec) -> dict[str, Any]:
    kind = spec.model.quantization
    if kind == "none":
        return {}
    if kind in _BITS_AND_BYTES:
        _require("bitsandbytes", f"quantization {kind}", "parquetry[gpu]")
        return {"quantization_config": _bits_and_bytes(kind)}
    _require("torchao", f"quantization {kind}", "parquetry[gpu]")
    return {"quantization_config": _torchao(spec)}


def _bits_and_bytes(kind: str) -> BitsAndBytesConfig:
    if kind == "int8":
        # the outlier path of the default threshold waits for the device in every layer
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def _torchao(spec: EngineSpec) -> Any:
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, Int8WeightOnlyConfig, PerRow
    from transformers import TorchAoConfig

    if spec.model.quantization == "int8-weight-only":
        return TorchAoConfig(Int8WeightOnlyConfig())
    if spec.device == "cpu" or torch.cuda.get_device_capability() < (8, 9):
        reason = "it needs a GPU of compute capability 8.9 or newer; use int8-weight-only or nf4"
        raise UnsupportedOptionError(option="model.quantization fp8", reason=reason)
    return TorchAoConfig(Float8DynamicActivationFloat8WeightConfig(granularity=PerRow()))


def _device_options(spec: EngineSpec) -> dict[str, Any]:
    if spec.device == "cpu":
        return {"device_map": "cpu"} if spec.model.quantization != "none" else {}
    if spec.model.device_map is None or (torch.cuda.device_count() == 1 and spec.model.max_memory is None):
        return {"device_map": spec.device}
    limits = spec.model.max_memory
    memory = None if limits is None else {int(key) if key.isdecimal() else key: size for key, size in limits.items()}
    return {"device_map": "auto", "max_memory": memory}


def _with_adapter(model: nn.Module, adapter: str) -> nn.Module:
    """The model with a LoRA adapter merged into its weights, which costs nothing per token."""
    _require("peft", "model.adapter", "peft")
    from peft import PeftModel

    merged = PeftModel.from_pretrained(model, adapter_folder(adapter), use_safetensors=True, is_trainable=False)
    return merged.merge_and_unload()


def _require(package: str, feature: str, install: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise MissingPackageError(feature=feature, package=package, install=install)


def attention_name(model: nn.Module, spec: EngineSpec) -> str:
    """What the model computes attention with, for provenance."""
    if spec.model.attention in _KERNELS:
        return spec.model.attention
    return str(getattr(model.config, "_attn_implementation", None) or "eager")


def dtype_name(model: nn.Module) -> str:
    """bfloat16 and the like."""
    return str(model.dtype).removeprefix("torch.")
