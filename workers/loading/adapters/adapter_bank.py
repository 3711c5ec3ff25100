"""Several LoRA adapters beside one base model: each row of a batch is answered with its own, or with none."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from parquetry.schemas.errors import AdapterMismatchError
from parquetry.workers.checkpoint.adapter import Adapter
from parquetry.workers.loading.adapters.merged_adapter import telling_line
from parquetry.workers.loading.adapters.stand_ins import standing_in
from parquetry.workers.packages import require

#: ranks of a layer are filled up with zeros to a multiple of this, which tensor cores need
_RANK_MULTIPLE = 8

#: A (rank, inputs) and B (outputs, rank) of one layer, the scale in B
Pair = tuple[Tensor, Tensor]


class AdapterBank:
    """The names of a model's adapters, and which of them the forward pass that is being computed uses.

    An adapter's number is its index in the names plus 1; number 0 is the model as it is.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        self.names = tuple(names)
        self._numbers: dict[str | None, int] = {name: number for number, name in enumerate((None, *names))}
        #: (num_rows,) int64; an input of the linear layers has as many rows, or a multiple with equal runs
        self.chosen: Tensor | None = None

    @classmethod
    def of(cls, model: PreTrainedModel) -> AdapterBank:
        """The bank of a model that was loaded with adapters, an empty one for any other."""
        return getattr(model, "adapter_bank", None) or cls()

    def number(self, name: str | None) -> int:
        """The number of an adapter. Raises KeyError for an unknown name."""
        return self._numbers[name]

    @contextmanager
    def choosing(self, numbers: Tensor | None) -> Iterator[None]:
        """Compute forward passes with these adapters, None for the model as it is."""
        self.chosen = numbers
        try:
            yield
        finally:
            self.chosen = None


class AdaptedLinear(nn.Module):
    """A linear layer with its adapters stacked beside it.

    All of them are computed for every row in two products over the sum of their ranks, and what is not the row's own
    is cleared in between: no gather, no sort, and shapes that do not depend on who is in the batch.
    """

    down: Tensor
    up: Tensor
    owners: Tensor

    def __init__(self, base: nn.Module, bank: AdapterBank, factors: Mapping[int, Pair]) -> None:
        """`factors`: number -> A (rank, inputs) and B (outputs, rank), the scale in B, all of one dtype."""
        super().__init__()
        self.base = base
        self.bank = bank
        owners = [number for number, (down, _) in factors.items() for _ in range(len(down))]
        padding = -len(owners) % _RANK_MULTIPLE
        down = F.pad(torch.cat([down for down, _ in factors.values()]), (0, 0, 0, padding))
        up = F.pad(torch.cat([up for _, up in factors.values()], 1), (0, padding))
        self.register_buffer("down", down, persistent=False)
        self.register_buffer("up", up, persistent=False)
        # no row has number -1
        owned = torch.tensor(owners + [-1] * padding, device=down.device)
        self.register_buffer("owners", owned, persistent=False)

    @property
    def weight(self) -> Tensor:
        """The base layer's, which some model classes ask for its dtype."""
        weight = self.base.weight
        assert isinstance(weight, Tensor)
        return weight

    def forward(self, x: Tensor) -> Tensor:
        y, numbers = self.base(x), self.bank.chosen
        if numbers is None:
            return y
        rows = x.reshape(numbers.shape[0], -1, x.shape[-1]).to(self.down.dtype)
        own = self.owners.eq(numbers[:, None, None])
        # where, not a product: what another row's adapter makes of this one may have overflowed
        inner = torch.where(own, F.linear(rows, self.down), 0)
        return y + F.linear(inner, self.up).reshape(y.shape).to(y.dtype)


def attach(model: PreTrainedModel, adapters: Mapping[str, Adapter], *, name: str) -> PreTrainedModel:
    """Put the adapters beside the weights of `model`, which all keep their values; returns the model.

    Raises AdapterMismatchError.
    """
    require("peft", feature="model.adapters")
    bank = AdapterBank(list(adapters))
    layers: dict[str, dict[int, Pair]] = {}
    for adapter_name, adapter in adapters.items():
        model, factors = factors_of(model, adapter, name=name)
        for layer, pair in factors.items():
            layers.setdefault(layer, {})[bank.number(adapter_name)] = pair
    for layer, by_number in layers.items():
        model.set_submodule(layer, AdaptedLinear(model.get_submodule(layer), bank, by_number))
    model.adapter_bank = bank
    return model.eval()


def factors_of(model: PreTrainedModel, adapter: Adapter, *, name: str) -> tuple[PreTrainedModel, dict[str, Pair]]:
    """The model without the adapter, and A and scaled B of every layer that it changes. Raises AdapterMismatchError."""
    with standing_in(model):
        return _factors(model, adapter, name=name)


def _factors(model: PreTrainedModel, adapter: Adapter, *, name: str) -> tuple[PreTrainedModel, dict[str, Pair]]:
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        try:
            wrapped = PeftModel.from_pretrained(model, adapter.folder, autocast_adapter_dtype=False)
        except (ValueError, RuntimeError, KeyError) as error:
            reason = telling_line(error)
            raise AdapterMismatchError(adapter=str(adapter.folder), model=name, reason=reason) from None
    inner = wrapped.get_base_model()
    found = {layer: module for layer, module in inner.named_modules() if isinstance(module, LoraLayer)}
    factors = {layer: _factors_of(module, model.dtype) for layer, module in found.items()}
    usable = {layer: pair for layer, pair in factors.items() if pair is not None}
    broken = next((layer for layer in factors if layer not in usable), None)
    if broken is not None:
        reason = f"its weights at {broken} are no plain LoRA of finite numbers; merge it with model.adapter"
        raise AdapterMismatchError(adapter=str(adapter.folder), model=name, reason=reason)
    return wrapped.unload(), usable


def _factors_of(layer: Any, dtype: torch.dtype) -> Pair | None:
    """None for what is no plain LoRA of finite numbers."""
    (adapter,) = layer.active_adapters
    if adapter not in layer.lora_A or adapter in layer.lora_variant:
        return None
    down, up = layer.lora_A[adapter].weight.detach(), layer.lora_B[adapter].weight.detach()
    device = layer.get_base_layer().weight.device
    scaled = up.float() * layer.scaling[adapter]
    pair = down.to(device, dtype), scaled.to(device, dtype)
    return pair if all(x.dim() == 2 and bool(x.isfinite().all()) for x in pair) else None
