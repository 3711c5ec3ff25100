"""Logits to scores, as the checkpoint says."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from schemas.job import Task

Activation = Literal["none", "sigmoid", "softmax"]


def activation_of(task: Task, config: dict[str, Any], num_labels: int) -> Activation:
    """`config` is config.json as a dict. Regression keeps its values, several labels exclude each other unless the
    problem is multi-label, and a cross-encoder may name its own function."""
    if task == "score":
        return _cross_encoder_activation(config, num_labels)
    problem = config.get("problem_type")
    if problem == "regression":
        return "none"
    return "sigmoid" if problem == "multi_label_classification" or num_labels == 1 else "softmax"


def _cross_encoder_activation(config: dict[str, Any], num_labels: int) -> Activation:
    own = config.get("sentence_transformers") or {}
    named = own.get("activation_fn") or config.get("sbert_ce_default_activation_function")
    if named:
        return "sigmoid" if str(named).endswith("Sigmoid") else "none"
    return "sigmoid" if num_labels == 1 else "none"


def scores(logits: np.ndarray, activation: Activation) -> np.ndarray:
    """(num_rows, num_labels) float32 in and out."""
    logits = logits.astype(np.float32, copy=False)
    if activation == "sigmoid":
        return np.where(logits >= 0, 1 / (1 + np.exp(-np.abs(logits))), 1 - 1 / (1 + np.exp(-np.abs(logits))))
    if activation == "softmax":
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        return raised / raised.sum(axis=1, keepdims=True)
    return logits
