"""Logits to scores on the host."""

from __future__ import annotations

from typing import Literal

import numpy as np

Activation = Literal["none", "sigmoid", "softmax"]


def scores(logits: np.ndarray, activation: Activation) -> np.ndarray:
    """(num_rows, num_labels) float32 in and out."""
    logits = logits.astype(np.float32, copy=False)
    if activation == "sigmoid":
        small = np.exp(-np.abs(logits))
        return np.where(logits >= 0, 1, small) / (1 + small)
    if activation == "softmax":
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        return raised / raised.sum(axis=1, keepdims=True)
    return logits
