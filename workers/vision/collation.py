"""Rows that a processor made one by one, put together as it would have made them at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

#: arrays of one row, the first dimension counting the row, its images or their patches
Row = dict[str, Tensor]
#: arrays with one column a token; all others belong to the images
_PER_TOKEN = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "cross_attention_mask")


def collate(rows: Sequence[Row], pad_id: int) -> Row:
    """One batch of the rows: tokens padded on the left, images one after the other, filled up with zeros."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: _column(name, [row[name] for row in rows if name in row], pad_id) for name in names}


def _column(name: str, values: list[Tensor], pad_id: int) -> Tensor:
    if name in _PER_TOKEN:
        fill = pad_id if name == "input_ids" else 0
        width = max(value.shape[1] for value in values)
        lefts = [(0, 0) * (value.ndim - 2) + (width - value.shape[1], 0) for value in values]
        values = [functional.pad(value, left, value=fill) for value, left in zip(values, lefts, strict=True)]
    return torch.cat(_even(values))


def _even(values: list[Tensor]) -> list[Tensor]:
    """All as large as the largest in every dimension but the first."""
    if len({value.shape[1:] for value in values}) == 1:
        return values
    sizes = [max(value.shape[axis] for value in values) for axis in range(1, values[0].ndim)]
    return [functional.pad(value, _missing(value, sizes)) for value in values]


def _missing(value: Tensor, sizes: Sequence[int]) -> list[int]:
    """Zeros to append, as torch wants them: the last dimension first."""
    missing = [size - have for size, have in zip(sizes, value.shape[1:], strict=True)]
    return [number for size in reversed(missing) for number in (0, size)]


def num_bytes(row: Row) -> int:
    """Bytes of the row's arrays."""
    return sum(value.nbytes for value in row.values())
