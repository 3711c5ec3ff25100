"""The tensors behind the block pool: one pair per attention layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class LayerShape:
    """What one attention layer stores per token."""

    module: nn.Module
    num_heads: int
    num_kv_heads: int
    key_dim: int
    value_dim: int
    #: what it computes with
    dtype: torch.dtype
    #: what its cache keeps; None: the same
    cache_dtype: torch.dtype | None = None
    #: values are the first numbers of keys, and kept once
    values_in_keys: bool = False

    @property
    def stored_dtype(self) -> torch.dtype:
        """What its cache keeps."""
        return self.cache_dtype or self.dtype

    @property
    def bytes_per_token(self) -> int:
        own_values = 0 if self.values_in_keys else self.value_dim
        return self.num_kv_heads * (self.key_dim + own_values) * self.stored_dtype.itemsize


def attach_caches(layers: Sequence[LayerShape], num_blocks: int, block_size: int, device: torch.device) -> None:
    """Give every layer its caches, `num_blocks` and one more: the block that padding writes to.

    They are attributes of the attention modules, so compiled layers take them as inputs and share one graph. As buffers
    they would be inputs of fixed shapes, and every layer would be compiled again once the number of blocks is known.
    """
    for layer in layers:
        module: Any = layer.module
        shape = (num_blocks + 1, layer.num_kv_heads, block_size)
        module.packed_keys = zeros((*shape, layer.key_dim), layer.stored_dtype, device)
        own = None if layer.values_in_keys else zeros((*shape, layer.value_dim), layer.stored_dtype, device)
        module.packed_values = module.packed_keys if own is None else own


#: model.kv_dtype -> what caches keep, where that is not what layers compute with
CACHE_DTYPES = {"fp8": torch.float8_e4m3fn}


def stored_as(layers: Sequence[LayerShape], kv_dtype: str) -> list[LayerShape]:
    """The layers with caches of `kv_dtype`, which may be `auto`."""
    return [replace(layer, cache_dtype=CACHE_DTYPES.get(kv_dtype)) for layer in layers]


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros, not empty: a masked key still meets a weight of zero, and zero times NaN is NaN.

    On a CPU they come from numpy, whose zero pages take no memory until they are written.
    """
    if device.type == "cpu":
        flat = np.zeros(math.prod(shape) * dtype.itemsize, dtype=np.uint8)
        return torch.from_numpy(flat).view(dtype).view(shape)
    return torch.zeros(shape, dtype=dtype, device=device)


def detach_caches(layers: Sequence[LayerShape]) -> None:
    """Undo `attach_caches`, and forget the windows that were read."""
    for layer in layers:
        for name in ("packed_keys", "packed_values", "packed_sliding_window"):
            vars(layer.module).pop(name, None)
