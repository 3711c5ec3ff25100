"""Less for an exported graph to compute: biases that cancel or can be folded, and GELU as one operator.

ONNX Runtime adds every bias in a pass of its own over the activations, and writes GELU out in five.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import GELUActivation, NewGELUActivation

from parquetry.workers.fusing.encoder_block import PRODUCTS

#: attributes of q, k and v, and behind them of the product that takes the attention's output, by module that has both:
#: BERT and its kin; ALBERT; DistilBERT
_ATTENTIONS = (
    (("self.query", "self.key", "self.value"), "output.dense"),
    (("query", "key", "value"), "dense"),
    (("q_lin", "k_lin", "v_lin"), "out_lin"),
)


class BiasGelu(nn.Module):
    """A linear layer and the GELU behind it, as a product and one of ONNX Runtime's operators."""

    def __init__(self, linear: nn.Linear, operator: str) -> None:
        super().__init__()
        self.weight, self.bias, self._operator = linear.weight, linear.bias, operator

    def forward(self, x: Tensor) -> Tensor:
        product = nn.functional.linear(x, self.weight)
        return torch.onnx.ops.symbolic(
            f"com.microsoft::{self._operator}", (product, self.bias), dtype=x.dtype, shape=product.shape, version=1
        )


def fuse_for_runtime(model: PreTrainedModel) -> None:
    """Rewrite what can be, in place."""
    is_rotary = _is_rotary(model)
    for module in list(model.modules()):
        for names in _ATTENTIONS if not is_rotary else ():
            _fold_biases(module, *names)
        for linear, activation in PRODUCTS:
            _fuse_gelu(module, linear, activation)


@torch.no_grad()
def _fold_biases(module: nn.Module, parts: tuple[str, str, str], out: str) -> None:
    """A key's bias adds the same to all scores of a query, which softmax takes away again; a value's bias passes
    through weights that add up to one, and can wait for the next product.
    """
    _, key, value, output = (_linear(module, name) for name in (*parts, out))
    if key is not None and value is not None and output is not None:
        output.bias.add_(output.weight @ value.bias)
        for linear in (key, value):
            linear.register_parameter("bias", None)


def _fuse_gelu(module: nn.Module, linear: str, activation: str) -> None:
    product, operator = _linear(module, linear), _operator(getattr(module, activation, None))
    if product is not None and operator is not None:
        setattr(module, linear, BiasGelu(product, operator))
        setattr(module, activation, nn.Identity())


def _operator(activation: nn.Module | None) -> str | None:
    """The operator that adds a bias and computes the activation."""
    if isinstance(activation, NewGELUActivation) or getattr(activation, "approximate", None) == "tanh":
        return "FastGelu"
    return "BiasGelu" if isinstance(activation, (GELUActivation, nn.GELU)) else None


def _linear(module: nn.Module, name: str) -> nn.Linear | None:
    """The plain linear layer with a bias at a dotted name."""
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    return found if type(found) is nn.Linear and found.bias is not None else None


def _is_rotary(model: PreTrainedModel) -> bool:
    """Whether keys are turned by their position, and their bias with them."""
    return any("rotary" in type(module).__name__.lower() for module in model.modules())
