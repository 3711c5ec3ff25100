"""What stands between an expert's two products: an activation, mostly times a second half, and known by its values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

#: name -> function of (x, alpha)
ACTIVATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "none": lambda x, alpha: x,
    "silu": lambda x, alpha: x * torch.sigmoid(alpha * x),
    "gelu": lambda x, alpha: F.gelu(x),
    "gelu_tanh": lambda x, alpha: F.gelu(x, approximate="tanh"),
    "relu": lambda x, alpha: F.relu(x),
    "relu2": lambda x, alpha: F.relu(x).square(),
}


class Gate(NamedTuple):
    """act(first) * (second + shift) of the halves of an expert's outputs, or act of all of them."""

    activation: str = "none"
    is_gated: bool = False
    #: halves take turns (gpt-oss), instead of lying side by side
    is_interleaved: bool = False
    #: silu is x * sigmoid(alpha * x)
    alpha: float = 1.0
    #: `first` is at most this, and `second` within plus and minus it; 0 for no limit
    limit: float = 0.0
    shift: float = 0.0

    def num_outputs(self, width: int) -> int:
        """What is left of an expert's `width` outputs."""
        return width // 2 if self.is_gated else width

    @property
    def word(self) -> str:
        """All of it in one word. A compiler takes that for a constant, and numbers for inputs of the layer."""
        return "/".join(map(str, (self.activation, *map(int, self[1:3]), *self[3:])))

    @staticmethod
    @cache
    def of(word: str) -> Gate:
        """The gate that has this word."""
        activation, is_gated, is_interleaved, *numbers = word.split("/")
        return Gate(activation, is_gated == "1", is_interleaved == "1", *map(float, numbers))


#: the word of a gate that leaves everything as it is
OPEN = Gate().word


def apply_gate(rows: Tensor, gate: Gate) -> Tensor:
    """rows (num_rows, width) through the gate in float32, rounded once."""
    act, x = ACTIVATIONS[gate.activation], rows.float()
    if not gate.is_gated:
        return act(x, gate.alpha).to(rows.dtype)
    first, second = (x[..., ::2], x[..., 1::2]) if gate.is_interleaved else x.chunk(2, -1)
    if gate.limit:
        first, second = first.clamp(max=gate.limit), second.clamp(-gate.limit, gate.limit)
    return (act(first, gate.alpha) * (second + gate.shift)).to(rows.dtype)


def recognise(experts: Any, device: torch.device) -> Gate | None:
    """The gate that computes what the module's own does, or None.

    Classes name their activations in many ways and override the gate as they like, so both are tried on numbers.
    """
    rows = probe().to(device)
    function = experts._apply_gate if experts.has_gate else experts.act_fn
    try:
        want = function(rows.clone())
    except (RuntimeError, TypeError, ValueError, AttributeError):
        return None
    return next((gate for gate in candidates(experts) if is_same(apply_gate(rows, gate), want)), None)


def is_same(got: Tensor, want: Tensor) -> bool:
    """Whether two gates agree, to the rounding of float32."""
    return got.shape == want.shape and torch.allclose(got, want.float(), rtol=1e-5, atol=1e-6)


def probe() -> Tensor:
    """Rows (64, 32) of all sizes: activations differ around zero, limits lie far out."""
    generator = torch.Generator().manual_seed(0)
    near = torch.randn(32, 32, generator=generator) * 3
    far = torch.randn(32, 32, generator=generator) * torch.logspace(0, 4, 32)
    return torch.cat([near, far])


def candidates(experts: Any) -> Iterator[Gate]:
    """Gates with the numbers that the module holds; plain ones first."""
    names = [name for name in ACTIVATIONS if name != "none"]
    if not experts.has_gate:
        yield from (Gate(name) for name in names)
        return
    held = [float(v) for v in vars(experts).values() if isinstance(v, int | float) and not isinstance(v, bool)]
    numbers = [v for v in held if v > 0 and math.isfinite(v)]
    for limit, shift, alpha, is_interleaved in product((0.0, *numbers), (0.0, 1.0), (1.0, *numbers), (False, True)):
        yield from (Gate(name, True, is_interleaved, alpha, limit, shift) for name in names)
