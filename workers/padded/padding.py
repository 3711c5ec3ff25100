"""Rows of token ids as one padded matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

Side = Literal["left", "right"]


def pad_rows(rows: Sequence[np.ndarray], pad_id: int, side: Side) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and attention mask, both (num_rows, longest) int64; the mask is 0 where a row was filled up."""
    width = max(map(len, rows))
    ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.int64)
    for index, row in enumerate(rows):
        start = width - len(row) if side == "left" else 0
        ids[index, start : start + len(row)], mask[index, start : start + len(row)] = row, 1
    return ids, mask
