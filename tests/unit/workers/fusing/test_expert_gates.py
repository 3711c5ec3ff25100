"""Gates are known by what they compute, whatever their classes call it."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN
from transformers.integrations.moe import _default_apply_gate

from parquetry.workers.fusing.expert_gates import Gate, recognise

CPU = torch.device("cpu")


class Experts(nn.Module):
    """What the gate of a class of experts can see."""

    def __init__(self, activation: str = "silu", *, has_gate: bool = True, **numbers: float) -> None:
        super().__init__()
        self.has_gate, self.act_fn = has_gate, ACT2FN[activation]
        self.num_experts, self.intermediate_dim = 128, 768
        vars(self).update(numbers)

    _apply_gate = _default_apply_gate


class Clamped(Experts):
    def _apply_gate(self, rows: Tensor) -> Tensor:
        gate, up = rows.chunk(2, -1)
        return self.act_fn(gate.clamp(max=self.limit)) * up.clamp(-self.limit, self.limit)


class Interleaved(Experts):
    def _apply_gate(self, rows: Tensor) -> Tensor:
        gate, up = rows[..., ::2].clamp(max=self.limit), rows[..., 1::2].clamp(-self.limit, self.limit)
        return (up + 1) * gate * torch.sigmoid(gate * self.alpha)


class ClampedLate(Experts):
    def _apply_gate(self, rows: Tensor) -> Tensor:
        gate, up = rows.chunk(2, -1)
        return self.act_fn(gate).clamp(max=self.limit) * up.clamp(-self.limit, self.limit)


class Failing(Experts):
    def _apply_gate(self, rows: Tensor) -> Tensor:
        return rows @ torch.zeros(7, 7)


@pytest.mark.parametrize(
    ("activation", "name"),
    [("silu", "silu"), ("gelu", "gelu"), ("gelu_pytorch_tanh", "gelu_tanh"), ("relu", "relu"), ("relu2", "relu2")],
)
def test_activations(activation: str, name: str) -> None:
    assert recognise(Experts(activation), CPU) == Gate(name, True)
    assert recognise(Experts(activation, has_gate=False), CPU) == Gate(name)


def test_limits_and_layouts() -> None:
    assert recognise(Clamped(limit=10.0), CPU) == Gate("silu", True, limit=10.0)
    assert recognise(Clamped("gelu", limit=7), CPU) == Gate("gelu", True, limit=7.0)
    gpt_oss = Interleaved(alpha=1.702, limit=7.0)
    assert recognise(gpt_oss, CPU) == Gate("silu", True, True, alpha=1.702, limit=7.0, shift=1.0)
    # a limit beyond all numbers is none
    assert recognise(Clamped(limit=math.inf), CPU) == Gate("silu", True)


def test_a_gate_of_another_kind_is_left_to_its_class() -> None:
    assert recognise(ClampedLate(limit=7.0), CPU) is None
    assert recognise(Experts("tanh"), CPU) is None
    assert recognise(Experts("leaky_relu", has_gate=False), CPU) is None
    assert recognise(Failing(), CPU) is None
    two_halves = SimpleNamespace(has_gate=True, _apply_gate=lambda rows: F.silu(rows[..., :16]))
    assert recognise(two_halves, CPU) is None


@pytest.mark.parametrize("gate", [Gate(), Gate("relu2"), Gate("silu", True, True, alpha=1.702, limit=7.0, shift=1.0)])
def test_a_gate_is_found_again_by_its_word(gate: Gate) -> None:
    assert Gate.of(gate.word) == gate
