"""Weights of 4 bits for the benchmarks: what a GPTQ checkpoint says of itself, and a model whose layers are made so."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from parquetry.workers.fusing.four_bit_linear import FourBitLinear, FourBitWeights

GROUP_SIZE = 128
#: quantization_config of config.json
SECTION = {
    "quant_method": "gptq", "bits": 4, "group_size": GROUP_SIZE, "sym": True, "desc_act": False, "lm_head": False,
    "checkpoint_format": "gptq",
}  # fmt: skip


@torch.no_grad()
def make_four_bit(model: PreTrainedModel) -> None:
    """Put layers of 4 bits in the place of all linear layers but the last, by the nearest codes; one by one."""
    head = model.get_output_embeddings()
    names = [name for name, module in model.named_modules() if type(module) is nn.Linear and module is not head]
    for name in names:
        linear = model.get_submodule(name)
        model.set_submodule(name, FourBitLinear(nearest(linear.weight), linear.bias, linear.weight.dtype))


def nearest(weight: torch.Tensor) -> FourBitWeights:
    """The weights (outputs, inputs) in groups of inputs that lie evenly around zero."""
    num_inputs = weight.shape[1]
    grouped = F.pad(weight.float(), (0, -num_inputs % GROUP_SIZE)).unflatten(1, (-1, GROUP_SIZE))
    scales = (grouped.abs().amax(-1) / 7).clamp(min=1e-8)
    codes = (grouped / scales[:, :, None]).round().clamp(-8, 7) + 8
    return FourBitWeights(codes.to(torch.uint8).flatten(1)[:, :num_inputs], scales.t(), None, None, GROUP_SIZE)
