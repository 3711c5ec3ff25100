"""Whether a model has all of its weights: missing ones would be random numbers, others would be left out."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import torch
from transformers import PreTrainedModel

from parquetry.schemas.errors import UnusableModelError
from parquetry.schemas.spec.job import Task

#: a layer of a list, such as encoder.layer.11, and its number
_LAYER = re.compile(r"^(.*?)\.(\d+)\.")


def require_own_weights(model: PreTrainedModel, report: dict[str, Any], *, name: str, task: Task) -> None:
    """Raise UnusableModelError when the answer would depend on weights that the files lack, or on layers cut off.

    `report` is the loading info of transformers. Of an embedder only what its vectors do not depend on may be missing,
    such as a pooler that nobody reads; of other models nothing may.
    """
    missing, spare = set(report["missing_keys"]), set(report["unexpected_keys"])
    if missing and task == "embed":
        missing -= _unread(model, missing)
    if missing:
        raise UnusableModelError(model=name, reason=_lack(missing, spare, task))
    unplaced = sorted(key for key in spare if _has_no_place(model, key))
    if unplaced:
        reason = f"its files hold {len(unplaced)} weights that its config.json has no place for, such as {unplaced[0]}"
        raise UnusableModelError(model=name, reason=f"{reason}; without them it would be another model")


def _lack(missing: Collection[str], spare: Collection[str], task: Task) -> str:
    reason = f"its files lack {len(missing)} of the weights that task {task} needs, such as {min(missing)}"
    return f"{reason}; they hold {len(spare)} others, such as {min(spare)}" if spare else reason


def _unread(model: PreTrainedModel, missing: Collection[str]) -> set[str]:
    """Those of the missing weights that do not reach the hidden states of a row, by their gradients."""
    # one row does not visit every expert, so no weight of a layer is asked for
    asked = {key: weight for key, weight in model.named_parameters() if key in missing and not _LAYER.match(key)}
    model.requires_grad_(False)
    for weight in asked.values():
        weight.requires_grad_(True)
    with torch.enable_grad():
        hidden = _hidden_states(model)
        if not hidden.requires_grad:
            return set(asked)
        found = torch.autograd.grad(hidden.float().sum(), list(asked.values()), allow_unused=True)
    return {key for key, gradient in zip(asked, found, strict=True) if gradient is None}


def _hidden_states(model: PreTrainedModel) -> torch.Tensor:
    ids = torch.arange(2, device=model.device)[None]
    return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state


def _has_no_place(model: PreTrainedModel, key: str) -> bool:
    """Whether a weight of the files belongs to a layer beyond the model's last, or is a part that a layer lacks."""
    found = _LAYER.match(key)
    if found is None:
        return False
    layers, number = _module(model, found[1]), int(found[2])
    if isinstance(layers, torch.nn.ModuleList):
        return number >= len(layers) + _num_ahead(model) or (number < len(layers) and _lacks(model, key))
    return False


def _lacks(model: PreTrainedModel, key: str) -> bool:
    """Whether the weight is the bias, or the matrix, of a module that computes without one.

    Modules that hold others may have kept a mask under such a name.
    """
    owner, _, name = key.rpartition(".")
    module = _module(model, owner)
    is_leaf = module is not None and not any(True for _ in module.children())
    return is_leaf and name in ("weight", "bias") and any(True for _ in module.parameters(recurse=False))


def _module(model: PreTrainedModel, path: str) -> Any:
    """The module at a dotted path, None where there is none; files may leave the prefix of the body out, or have it."""
    for name in (path, f"{model.base_model_prefix}.{path}", path.removeprefix(f"{model.base_model_prefix}.")):
        try:
            return model.get_submodule(name)
        except AttributeError:
            continue
    return None


def _num_ahead(model: PreTrainedModel) -> int:
    """Layers behind the last that predict further tokens, which no engine computes."""
    return int(getattr(model.config.get_text_config(), "num_nextn_predict_layers", None) or 0)
