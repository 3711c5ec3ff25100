"""Turns what transformers sharded into plain layers over this rank's weights.

Transformers reads every rank's share of the weights and leaves them as DTensors under replaced forwards, which fetch
the local tensors and build layouts at every call: too much for a captured decode step, and other code in each version.
The shares are taken over as they are; the exchanges between ranks are our own.
"""

from __future__ import annotations

import re

from torch import nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from parquetry.workers.engine import UnsupportedModel
from parquetry.workers.parallel.layers import GatherLinear, RowLinear, Summed, look_up_share

#: styles of a transformers tensor parallel plan that need nothing but the local weights
LOCAL = frozenset(
    {"colwise", "packed_colwise", "replicated_with_grad_allreduce", "mla_kv_a_proj", "replicate", "local_params"}
)
#: styles of linear layers, of an embedding, and of a set of experts
ROWS = frozenset({"rowwise", "rowwise_split_input", "rowwise_rep"})
GATHERED = frozenset({"colwise_gather_output", "colwise_rep"})
VOCABULARY = "embedding_rowwise"
EXPERTS = "moe_tp_experts"
KNOWN = LOCAL | ROWS | GATHERED | {VOCABULARY, EXPERTS}


def generic(name: str) -> str:
    """`name` with its layer numbers as in `tp_plan`: model.layers.3.mlp -> model.layers.*.mlp."""
    return re.sub(r"\.\d+(?=\.|$)", ".*", name)


def take_over(model: PreTrainedModel) -> None:
    """Replace the model's DTensors and wrapped forwards, in place. Raises UnsupportedModel for styles unknown here."""
    tp_plan = dict(model.tp_plan)
    foreign = set(tp_plan.values()) - KNOWN
    if foreign:
        raise UnsupportedModel(f"its tensor parallel plan has the style {', '.join(sorted(foreign))}")
    found = [
        (name, module, tp_plan[generic(name)]) for name, module in model.named_modules() if generic(name) in tp_plan
    ]
    for name, module, style in found:
        _check_share(name, module, style)
        module.__dict__.pop("forward", None)
        module._backward_hooks.clear()
    _localize(model)
    for name, module, style in found:
        _take_over(model, name, module, style)


def _check_share(name: str, module: nn.Module, style: str) -> None:
    """A whole parameter inside a sum over ranks would count once a rank."""
    if style != EXPERTS:
        return
    whole = [key for key, parameter in module.named_parameters() if not isinstance(parameter, DTensor)]
    if whole:
        raise UnsupportedModel(f"its tensor parallel plan does not share out {name}.{whole[0]}")


def _localize(model: nn.Module) -> None:
    """Every parameter becomes this rank's plain tensor; tied ones stay tied."""
    local: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if isinstance(parameter, DTensor):
                if id(parameter) not in local:
                    local[id(parameter)] = _own(parameter)
                module._parameters[name] = local[id(parameter)]


def _own(parameter: DTensor) -> nn.Parameter:
    return nn.Parameter(parameter.to_local().detach().contiguous(), requires_grad=False)


def _take_over(model: nn.Module, name: str, module: nn.Module, style: str) -> None:
    if style in LOCAL:
        if isinstance(module, nn.Linear):
            module.out_features = module.weight.shape[0]
    elif style == VOCABULARY:
        assert isinstance(module, nn.Embedding)
        look_up_share(module)
    elif style == EXPERTS:
        model.set_submodule(name, Summed(module))
    elif not isinstance(module, nn.Linear):
        raise UnsupportedModel(f"its tensor parallel plan wants {style} of {name}, which is no linear layer")
    elif style in ROWS:
        model.set_submodule(name, RowLinear(module, splits_input=style != "rowwise"))
    else:
        model.set_submodule(name, GatherLinear(module))
