"""The product with weights of 4 bits as one opaque operator.

Few rows are multiplied with the codes as they lie, which is bound by reading them; many rows with weights that were
expanded first, which is bound by the product.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from parquetry.workers.fusing.four_bit_codes import unpack_codes
from parquetry.workers.packages import is_installed

#: More rows than this go through expanded weights. Expanding costs writing and reading two bytes a weight, at 3 TB/s
#: 1.5 ps; a row costs 2.9 fs a weight at 700 TFLOP/s and 6.7 fs at the 300 that a fused kernel is taken to reach.
MAX_FUSED_ROWS = 256
_KERNELS = "parquetry.workers.fusing.four_bit_kernels"


@torch.library.custom_op("parquetry::four_bit_product", mutates_args=())
def four_bit_product(x: Tensor, packed: Tensor, scales: Tensor, zeros: Tensor | None, group_size: int) -> Tensor:
    """x (..., inputs), packed (outputs, padded inputs / 8) int32, scales and zeros (groups, outputs): (..., outputs).

    Inputs lie in the order of the codes, and x, scales and zeros are of one dtype.
    """
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    scales, zeros = scales.contiguous(), None if zeros is None else zeros.contiguous()
    found = kernels_for(rows, packed, group_size)
    if found is not None and len(rows) <= MAX_FUSED_ROWS:
        out = found.fused_product(rows, packed, scales, zeros, group_size)
    elif found is not None:
        out = F.linear(rows, found.dequantize(packed, scales, zeros, group_size, rows.shape[1]))
    else:
        out = F.linear(rows, dequantized(packed, scales, zeros, group_size, rows.shape[1]))
    return out.view(*x.shape[:-1], packed.shape[0])


@four_bit_product.register_fake
def _(x: Tensor, packed: Tensor, scales: Tensor, zeros: Tensor | None, group_size: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], packed.shape[0])


def kernels_for(x: Tensor, packed: Tensor, group_size: int) -> Any | None:
    """Our kernels where they serve x and the weights, else None: float32 has no tensor cores to feed."""
    if not x.is_cuda or x.dtype == torch.float32:
        return None
    kernels = _kernels()
    return kernels if kernels is not None and kernels.fits(group_size, 8 * packed.shape[1]) else None


@cache
def _kernels() -> Any | None:
    """The module of our kernels, which imports Triton; a CPU build of torch does not bring that."""
    return import_module(_KERNELS) if is_installed("triton") and is_installed(_KERNELS) else None


def dequantized(packed: Tensor, scales: Tensor, zeros: Tensor | None, group_size: int, num_inputs: int) -> Tensor:
    """The weights (outputs, inputs) in the scales' dtype, each rounded once; whatever device they are on."""
    weights = unpack_codes(packed).to(scales.dtype).unflatten(1, (-1, group_size))
    weights = weights - (8 if zeros is None else zeros.t()[:, :, None])
    return (weights * scales.t()[:, :, None]).flatten(1)[:, :num_inputs]
