"""Linear layers over torchao's 8-bit floats, of which each row of weights, and each row of inputs, has a scale.

Ours are merged where several read one input, whose rows are then made 8-bit once; what makes them so is plain torch,
for a compiler to join with what computed them. Few rows are multiplied by our kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from parquetry.workers.fusing.scaled_linear import ScaledLinear, swap_layers
from parquetry.workers.packages import is_installed

#: the largest float8_e4m3fn
LARGEST = 448.0
#: The library takes more rows than this: on an H100 ours take 0.78 of its time at 16 rows of an 8B model's layer, 0.84
#: at 64, and 1.03 at 128.
MAX_ROWS = 64
#: what the library's product wants inputs and outputs to be multiples of
MULTIPLE = 16


def quantized_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (..., inputs) as float8_e4m3fn, and the scale of each, (..., 1) in float32."""
    wide = x.float()
    scale = (wide.abs().amax(-1, keepdim=True) / LARGEST).clamp(min=1e-12)
    return (wide / scale).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn), scale


# opaque: a compiler has no better product
@torch.library.custom_op("parquetry::fp8_linear", mutates_args=())
def fp8_linear(x: Tensor, x_scale: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """x (..., inputs) and weight (outputs, inputs) float8_e4m3fn, x_scale (..., 1) and scale (outputs,) float32.

    Returns (..., outputs) in bfloat16, plus the bias (outputs,).
    """
    rows, factors = x.reshape(-1, x.shape[-1]).contiguous(), x_scale.reshape(-1, 1).contiguous()
    out = _multiply(rows, factors, weight, scale)
    out = out if bias is None else out.add_(bias)
    return out.view(*x.shape[:-1], len(weight))


@fp8_linear.register_fake
def _(x: Tensor, x_scale: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0], dtype=torch.bfloat16)


def _multiply(x: Tensor, x_scale: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    if not x.is_cuda:
        return ((x.float() * x_scale) @ (weight.float() * scale[:, None]).t()).bfloat16()
    if len(x) <= MAX_ROWS:
        # Importing the kernels imports Triton, which a CPU build of torch does not bring.
        from parquetry.workers.fusing.fp8_kernels import fp8_product

        return fp8_product(x, x_scale, weight, scale)
    return torch._scaled_mm(x, weight.t(), x_scale, scale[None], out_dtype=torch.bfloat16, use_fast_accum=True)


class Fp8Linear(ScaledLinear):
    """Stands where a linear layer over 8-bit floats stood."""

    @staticmethod
    def multiply(x: Tensor, values: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        rows, factors = quantized_rows(x)
        return torch.ops.parquetry.fp8_linear(rows, factors, values, scale, bias)


def has_fp8_weight(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether this is a plain linear layer but for torchao's 8-bit floats, scaled by row, as are its inputs."""
    if type(module) is not nn.Linear or module._forward_hooks or module._forward_pre_hooks:
        return False
    return type(module.weight) is not nn.Parameter and is_installed("torchao") and is_scaled_by_row(module.weight)


def has_fp8_layers(model: nn.Module) -> bool:
    """Whether `swap_fp8_layers` would find any; outputs in any dtype but bfloat16 are torchao's own."""
    return getattr(model, "dtype", None) == torch.bfloat16 and any(has_fp8_weight(m) for m in model.modules())


def is_scaled_by_row(weight: Any) -> bool:
    """Whether weight and inputs are float8_e4m3fn with a scale per row, and of a shape that the library multiplies."""
    from torchao.quantization import Float8Tensor, PerRow

    if type(weight) is not Float8Tensor or weight.act_quant_kwargs is None or weight.qdata.ndim != 2:
        return False
    is_by_row = isinstance(weight.act_quant_kwargs.granularity, PerRow) and weight.block_size[0] == 1
    is_whole = list(weight.block_size)[1] == weight.shape[1] and weight.qdata.is_contiguous()
    kinds = {weight.qdata.dtype, weight.act_quant_kwargs.float8_dtype}
    return is_by_row and is_whole and kinds == {torch.float8_e4m3fn} and not any(n % MULTIPLE for n in weight.shape)


def swap_fp8_layers(model: nn.Module) -> Callable[[], None]:
    """Swap linear layers over 8-bit floats, also those inside adapted ones; returns what puts them back."""
    return swap_layers(model, has_fp8_weight, Fp8Linear)
