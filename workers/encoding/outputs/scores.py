"""Logits to scores on the host."""

from __future__ import annotations

from typing import Literal

import numpy as np

Activation = Literal["none", "sigmoid", "tanh", "softmax"]


def scores(logits: np.ndarray, activation: Activation) -> np.ndarray:
    """(num_rows, num_labels) float32 in and out."""
    logits = logits.astype(np.float32, copy=False)
    if activation == "sigmoid":
        small = np.exp(-np.abs(logits))
        return np.where(logits >= 0, 1, small) / (1 + small)
    if activation == "tanh":
        return np.tanh(logits)
    if activation == "softmax":
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        return raised / raised.sum(axis=1, keepdims=True)
    return logits


def likeliest_labels(logits: np.ndarray) -> np.ndarray:
    """(num_tokens, num_labels) logits to (num_tokens, 2) float32: the likeliest label's number, and its probability."""
    found = scores(logits, "softmax")
    return np.stack([found.argmax(1).astype(np.float32), found.max(1)], axis=1)


def split_rows(values: np.ndarray, lens: np.ndarray) -> list[np.ndarray]:
    """values (num_tokens, size) of rows laid end to end; (length * size,) of each."""
    return [row.reshape(-1) for row in np.split(values, np.cumsum(lens)[:-1])]
