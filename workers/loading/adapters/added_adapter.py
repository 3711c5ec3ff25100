"""One LoRA adapter beside weights of 4 bits: merging would round it to their steps, and lose most of it."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from parquetry.workers.checkpoint.adapter import Adapter
from parquetry.workers.fusing.four_bit_linear import FourBitLinear
from parquetry.workers.loading.adapters.adapter_bank import factors_of
from parquetry.workers.packages import require


class AddedLinear(nn.Module):
    """A layer, and the adapter's product added to what it computes."""

    down: Tensor
    up: Tensor

    def __init__(self, base: nn.Module, down: Tensor, up: Tensor) -> None:
        """`down` (rank, inputs) and `up` (outputs, rank), the scale in it."""
        super().__init__()
        self.base = base
        self.register_buffer("down", down, persistent=False)
        self.register_buffer("up", up, persistent=False)

    @property
    def weight(self) -> Tensor:
        """The base layer's, which some model classes ask for its dtype."""
        weight = self.base.weight
        assert isinstance(weight, Tensor)
        return weight

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + F.linear(F.linear(x, self.down), self.up)


def has_four_bit_layers(model: nn.Module) -> bool:
    """Whether an adapter of the model is to be added in place of merged."""
    return any(isinstance(module, FourBitLinear) for module in model.modules())


def add(model: PreTrainedModel, adapter: Adapter, *, name: str) -> PreTrainedModel:
    """Put the adapter beside the weights of `model` for good; returns the model. Raises AdapterMismatchError."""
    require("peft", feature="model.adapter")
    model, factors = factors_of(model, adapter, name=name)
    for layer, (down, up) in factors.items():
        model.set_submodule(layer, AddedLinear(model.get_submodule(layer), down, up))
    return model.eval()
