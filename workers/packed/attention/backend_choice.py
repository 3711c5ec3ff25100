"""Which attention backend serves which device."""

from __future__ import annotations

import importlib.util

import torch

from parquetry.workers.packed.attention import flash
from parquetry.workers.packed.attention.backend import AttentionBackend
from parquetry.workers.packed.attention.sdpa import SdpaBackend


def choose_backend(name: str, device: torch.device) -> AttentionBackend:
    """The backend that `name` asks for; `auto` knows the best one for the device. ValueError says what to use."""
    if name == "auto":
        name = best_name(device)
    if name == "sdpa":
        return SdpaBackend()
    if device.type != "cuda":
        raise ValueError(f"attention {name!r} needs a CUDA device; use attention: sdpa or auto on {device.type}")
    if name == "flash_attention_2" and not flash.has_package():
        raise ValueError(
            "attention 'flash_attention_2' needs the flash-attn package; install it or use attention: auto"
        )
    # Importing the kernels imports Triton, which a CPU build of torch does not bring.
    from parquetry.workers.packed.attention import kernel_backends as kernels

    kinds = (kernels.TritonBackend, kernels.TorchVarlenBackend, kernels.FlashAttentionBackend)
    return {kind.name: kind for kind in kinds}[name]()


def best_name(device: torch.device) -> str:
    """Our kernels on CUDA: on a Hopper card they beat flash attention 2 at decoding and on prompts of any length."""
    has_triton = importlib.util.find_spec("triton") is not None
    return "triton" if device.type == "cuda" and has_triton else "sdpa"
