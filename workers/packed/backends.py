"""Which attention backend serves which device."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from workers.packed.attention import AttentionBackend
from workers.packed.kv_cache import LayerShape
from workers.packed.sdpa import SdpaBackend


def choose_backend(name: str, device: torch.device, layers: Sequence[LayerShape]) -> AttentionBackend:
    """The backend that `name` asks for; `auto` knows the best one for the device. ValueError says what to use."""
    if name == "sdpa" or (name == "auto" and device.type != "cuda"):
        return SdpaBackend()
    if device.type != "cuda":
        raise ValueError(f"attention {name!r} needs a CUDA device; use attention: sdpa or auto on {device.type}")
    raise ValueError(f"attention {name!r} is not available")
