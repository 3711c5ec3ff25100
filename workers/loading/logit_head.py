"""A classifier of one label out of a model that writes text: its weights are one token's row less another's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from parquetry.schemas.errors import UnusableModelError
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.checkpoint.score_modules import LogitScore

#: what transformers calls a classifier's weights, and a generator's
_SCORE = "score.weight"
_HEAD, _HEAD_BIAS = "lm_head.weight", "lm_head.bias"


def put_logit_head(model: PreTrainedModel, report: dict[str, Any], checkpoint: Checkpoint, found: LogitScore) -> None:
    """Give `model` the head, and take it from the weights that the loading `report` misses.

    A float32 difference, rounded once to the model's dtype. Raises UnusableModelError for a class without such a head.
    """
    stock = getattr(model, "score", None)
    if not isinstance(stock, nn.Linear):
        reason = f"{type(model).__name__} has no head that LogitScore could be put into"
        raise UnusableModelError(model=checkpoint.id, reason=reason)
    weight, bias = _difference(model, checkpoint, found)
    head = nn.Linear(len(weight), 1, bias=bias is not None, dtype=model.dtype, device=model.device)
    head.weight.data = weight[None].to(head.weight)
    if bias is not None:
        head.bias.data = bias[None].to(head.weight)
    model.score = head
    report["missing_keys"] = set(report["missing_keys"]) - {_SCORE}
    report["unexpected_keys"] = {key for key in report["unexpected_keys"] if not key.endswith((_HEAD, _HEAD_BIAS))}


def _difference(model: PreTrainedModel, checkpoint: Checkpoint, found: LogitScore) -> tuple[Tensor, Tensor | None]:
    """(hidden_size,) float32, and a number where logits have a bias."""
    ids = [found.true_id] if found.false_id is None else [found.true_id, found.false_id]
    table = model.get_input_embeddings().weight
    if max(ids) >= table.shape[0]:
        reason = f"its LogitScore reads token {max(ids)}, and the model has {table.shape[0]}"
        raise UnusableModelError(model=checkpoint.id, reason=reason)
    rows = _rows(checkpoint.weight_files, _HEAD, ids)
    if rows is None:
        # tied to the table of words
        rows = table[ids].detach().float()
    bias = _rows(checkpoint.weight_files, _HEAD_BIAS, ids)
    return _less(rows), None if bias is None else _less(bias)


def _less(rows: Tensor) -> Tensor:
    return rows[0] if len(rows) == 1 else rows[0] - rows[1]


def _rows(files: list[Path], name: str, ids: list[int]) -> Tensor | None:
    """These rows of a weight of this name, whatever stands before it, in float32; None where no file has it."""
    for file in files:
        with safe_open(file, framework="pt") as stored:
            for key in stored.keys():  # noqa: SIM118
                if key == name or key.endswith(f".{name}"):
                    return torch.stack([stored.get_slice(key)[id : id + 1][0] for id in ids]).float()
    return None
