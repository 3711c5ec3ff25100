"""Mixtures of experts through our operators, by way of transformers' experts interface: stock classes stay stock."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, grouped_mm_experts_forward

# The operators that the function calls by their names, registered by their modules.
from parquetry.workers.fusing import expert_placement, expert_products  # noqa: F401
from parquetry.workers.fusing.expert_gates import OPEN, recognise

log = logging.getLogger(__name__)

#: the name that model configs hold
IMPLEMENTATION = "parquetry_experts"
#: what transformers calls the implementation that ours replaces
REPLACED = "grouped_mm"


def experts_forward(self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """hidden_states (num_tokens, hidden) through the experts top_k_index (num_tokens, top_k), weighted and summed.

    Tokens do not depend on one another: which rows of the products a token has is a matter of its neighbours, but a
    row is computed in the same way wherever it is, and the sum runs in the order of the top k.
    """
    if not getattr(self, "runs_expert_kernels", False):
        return grouped_mm_experts_forward(self, hidden_states, top_k_index, top_k_weights)
    ops, ids, gate = torch.ops.parquetry, top_k_index.contiguous(), self.expert_gate
    up, up_bias = (self.gate_up_proj, "gate_up_proj_bias") if self.has_gate else (self.up_proj, "up_proj_bias")
    pairs, rows, ends = ops.place_experts(ids, self.num_experts)
    placed = (pairs, ends, self.is_transposed)
    bias = getattr(self, up_bias) if self.has_bias else None
    inner = ops.multiply_experts(hidden_states.to(up.dtype), up, bias, *placed, ids.shape[1], gate or OPEN)
    if gate is None:
        inner = self._apply_gate(inner) if self.has_gate else self.act_fn(inner)
    bias = self.down_proj_bias if self.has_bias else None
    is_normed = has_norm(self)
    # but for a norm, the sum adds the bias on its way
    outer = ops.multiply_experts(inner, self.down_proj, bias if is_normed else None, *placed, 0, OPEN)
    if is_normed:
        outer, bias = self.post_expert_norm(outer), None
    return ops.sum_experts(outer, rows, ends, top_k_weights, bias, ids).to(hidden_states.dtype)


def has_norm(experts: Any) -> bool:
    """Whether each expert's output is normed before it is weighted; transformers 5.17 knows no such classes."""
    return getattr(experts, "has_post_expert_norm", False)


def expert_layers(model: nn.Module) -> list[Any]:
    """The modules whose class transformers dispatches through an experts interface."""
    return [module for module in model.modules() if hasattr(module, "is_concatenated") and hasattr(module, "down_proj")]


def has_experts(model: nn.Module) -> bool:
    """Whether `use_expert_kernels` has anything to look at."""
    return bool(expert_layers(model))


def reason_against(experts: Any) -> str | None:
    """Why our operators cannot serve a module, or None."""
    weights = [experts.gate_up_proj if experts.has_gate else experts.up_proj, experts.down_proj]
    if any(type(weight) is not nn.Parameter or not weight.is_floating_point() for weight in weights):
        return "their weights are quantized"
    if any(weight.element_size() < 2 for weight in weights):
        return "their weights are quantized"
    if weights[0].is_cuda and weights[0].dtype not in (torch.float16, torch.bfloat16):
        return f"{weights[0].dtype} has no kernel; choose bfloat16 or float16".replace("torch.", "")
    if experts.config._experts_implementation != REPLACED:
        return f"the model was loaded with the implementation {experts.config._experts_implementation}"
    return None


def use_expert_kernels(model: Any) -> Callable[[], None] | None:
    """Run a model's experts through our operators; returns what undoes it, or None where no layer can be served.

    All layers of a model or none: they share one name in its config. Why none is logged.
    """
    layers = expert_layers(model)
    reason = next(filter(None, map(reason_against, layers)), None)
    if reason or not layers:
        log.info("experts run through transformers' own products: %s", reason or "the model has none")
        return None
    ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, experts_forward)
    before = model.get_experts_implementation()
    for experts in layers:
        gate = recognise(experts, experts.down_proj.device)
        experts.expert_gate = None if gate is None else gate.word
        experts.runs_expert_kernels = True
    model.set_experts_implementation(IMPLEMENTATION)

    def undo() -> None:
        model.set_experts_implementation(before)
        for experts in layers:
            del experts.expert_gate, experts.runs_expert_kernels

    return undo
