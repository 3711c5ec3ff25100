"""Stock decoder layers, each under the eyes of whoever wants to know what it is given and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from parquetry.workers.engine import UnsupportedModel

#: (number of the call in its forward pass, hidden states in, hidden states out) -> what the model goes on with
Watch = Callable[[int, "LayerCall", Tensor], Tensor]


class LayerCall:
    """What one layer was called with."""

    def __init__(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.layer = layer
        self.args = args
        self.kwargs = kwargs

    @property
    def hidden(self) -> Tensor:
        """The hidden states it was given, (1, num_tokens, dim)."""
        found = self.args[0] if self.args else self.kwargs["hidden_states"]
        assert isinstance(found, Tensor)
        return found

    def with_hidden(self, hidden: Tensor) -> LayerCall:
        """The same call with other hidden states."""
        if self.args:
            return LayerCall(self.layer, (hidden, *self.args[1:]), self.kwargs)
        return LayerCall(self.layer, (), {**self.kwargs, "hidden_states": hidden})

    def of(self, layer: nn.Module, dtype: torch.dtype) -> Tensor:
        """What another layer gives for the same call in `dtype`, (num_tokens, dim)."""
        outputs = layer(*cast(self.args, dtype), **cast(self.kwargs, dtype))
        hidden: Tensor = outputs[0] if isinstance(outputs, tuple) else outputs
        return hidden[0]


def cast(value: Any, dtype: torch.dtype) -> Any:
    """`value` with every floating-point tensor in it, however nested, in `dtype`."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, tuple | list):
        return type(value)(cast(item, dtype) for item in value)
    if isinstance(value, dict):
        return {key: cast(item, dtype) for key, item in value.items()}
    return value


class WatchedLayer(nn.Module):
    """Stands where a layer stood. The layer itself is called as ever, so that a compiled one stays the same one."""

    def __init__(self, layer: nn.Module, numbers: Iterator[int], watch: Watch) -> None:
        super().__init__()
        self.layer = layer
        self.numbers = numbers
        self.watch = watch

    def __getattr__(self, name: str) -> Any:
        # some models read a layer's attributes in their loop
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        call = LayerCall(self.layer, args, kwargs)
        # a fused layer may add to its input in place
        call = call.with_hidden(call.hidden.clone())
        outputs = self.layer(*args, **kwargs)
        hidden, *rest = outputs if isinstance(outputs, tuple) else (outputs,)
        if hidden.ndim != 3:
            raise UnsupportedModel(f"its layers pass on states of {hidden.ndim} dimensions, so they cannot be checked")
        seen = self.watch(next(self.numbers), call, hidden)
        return (seen, *rest) if isinstance(outputs, tuple) else seen


@contextmanager
def watching(layers: nn.ModuleList, watch: Watch) -> Iterator[None]:
    """Call `watch` for every layer of the one forward pass in here, each time that it is computed.

    ALBERT computes one layer many times.
    """
    stock, numbers = list(layers), count()
    for number, layer in enumerate(stock):
        layers[number] = WatchedLayer(layer, numbers, watch)
    try:
        yield
    finally:
        for number, layer in enumerate(stock):
            layers[number] = layer
