"""A model's own noise: what it gives when the outputs of its layers are rounded otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from parquetry.workers.checks.precise_layer import is_quantized_linear
from parquetry.workers.checks.stock_run import TENSOR_CORE_ROUNDING

#: a product of 8-bit activations may move by a whole step when one of them is rounded otherwise
QUANTIZED_ROUNDING = 2.0**-8


@contextmanager
def rounded_otherwise(model: PreTrainedModel, seed: int, step: float | None = None) -> Iterator[None]:
    """In here every block of `model` gives what it would, moved by as much as one rounding may move it.

    `step` is that as a share of its size, by default the model's own.
    """
    step = rounding_step(model) if step is None else step
    random = torch.Generator(device=model.device).manual_seed(seed)

    def move(_module: nn.Module, _args: Any, output: Any) -> Any:
        return with_first(output, lambda hidden: moved(hidden, step, random))

    handles = [block.register_forward_hook(move) for block in blocks(model)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def filled_otherwise(model: PreTrainedModel, pad_id: int, width: int) -> Iterator[None]:
    """In here padding in a batch of `width` tokens holds other vectors; the ids, of which masks are made, stay."""

    def fill(_module: nn.Module, args: Any, output: Any) -> Any:
        ids = args[0] if args else None
        # of an encoder-decoder both sides may read this table, and a decoder may begin with the padding id
        if ids is None or ids.ndim != 2 or ids.shape[1] != width or not isinstance(output, Tensor):
            return output
        random = torch.Generator(device=output.device).manual_seed(0)
        draw = torch.randn(output.shape[-1], generator=random, device=output.device)
        return torch.where((ids == pad_id)[..., None], draw * output.float().std(), output.float()).to(output.dtype)

    handle = model.get_input_embeddings().register_forward_hook(fill)
    try:
        yield
    finally:
        handle.remove()


def rounding_step(model: PreTrainedModel) -> float:
    """What one rounding moves an output by, as a share of its size."""
    step = torch.finfo(model.dtype).eps
    if model.dtype is torch.float32 and model.device.type == "cuda":
        step = TENSOR_CORE_ROUNDING
    is_quantized = any(is_quantized_linear(module) for module in model.modules())
    return max(step, QUANTIZED_ROUNDING) if is_quantized else step


def blocks(model: PreTrainedModel) -> list[nn.Module]:
    """The table of words, and the members of every list of modules that stands in no other list."""
    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    outer = [module for name, module in lists.items() if not any(name.startswith(f"{other}.") for other in lists)]
    return [model.get_input_embeddings(), *(block for module in outer for block in module)]


def with_first(output: Any, change: Any) -> Any:
    """`output` with its first tensor changed, where that is one of numbers."""
    if isinstance(output, Tensor):
        return change(output) if output.is_floating_point() else output
    if isinstance(output, tuple) and output and isinstance(output[0], Tensor):
        values = (with_first(output[0], change), *output[1:])
        # Reformer's layers name what they give
        return type(output)(*values) if hasattr(output, "_fields") else values
    return output


def moved(hidden: Tensor, step: float, random: torch.Generator) -> Tensor:
    """`hidden` with every number off by about `step` of its size."""
    if hidden.device != random.device:
        random = torch.Generator(device=hidden.device).manual_seed(random.initial_seed())
    draw = torch.randn(hidden.shape, generator=random, device=hidden.device, dtype=torch.float32)
    return (hidden.float() * (1 + step * draw)).to(hidden.dtype)
