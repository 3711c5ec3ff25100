"""What stands on top of a classifier: scores of its labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from parquetry.schemas.errors import UnsupportedOptionError
from parquetry.schemas.spec.job import Task
from parquetry.workers.encoding.outputs.scores import Activation


def label_scores(logits: Tensor, activation: Activation) -> Tensor:
    """(num_rows, num_labels) logits to float32 scores; see `Activation`."""
    logits = logits.float()
    if activation == "softmax":
        return logits.softmax(-1)
    if activation == "tanh":
        return logits.tanh()
    return logits.sigmoid() if activation == "sigmoid" else logits


def token_labels(logits: Tensor) -> Tensor:
    """(..., num_labels) logits to (..., 2) float32: the number of the likeliest label, and its probability."""
    best = logits.float().softmax(-1).max(-1)
    return torch.stack([best.indices.float(), best.values], -1)


def choose_activation(config: Any, task: Task, named: Activation | None = None) -> Activation:
    """What transformers' text-classification pipeline applies: none for a regression, softmax over several labels,
    sigmoid for one label or for labels that exclude nothing.

    Pair scores become 0 to 1, unless the model's folder has `named` something else.
    """
    problem, num_labels = getattr(config, "problem_type", None), config.num_labels
    if task == "score":
        if num_labels != 1:
            reason = f"the model has {num_labels} outputs; a pair score needs one, so use task classify"
            raise UnsupportedOptionError(option="task score", reason=reason)
        return named or ("none" if problem == "regression" else "sigmoid")
    if problem == "regression":
        return "none"
    return "sigmoid" if problem == "multi_label_classification" or num_labels == 1 else "softmax"
