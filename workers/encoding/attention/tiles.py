"""Which queries one program of the varlen kernel computes, and how many keys at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TileShape:
    """Sizes the kernel is compiled for."""

    #: queries of a tile, and keys of one product with them
    rows: int
    keys: int
    num_warps: int
    num_stages: int


# measured on an H100, heads of 64: larger tiles are mostly empty when rows are short
_SHORT = TileShape(rows=32, keys=32, num_warps=2, num_stages=2)
_LONG = TileShape(rows=64, keys=32, num_warps=4, num_stages=3)


def tile_shape(max_seqlen: int) -> TileShape:
    """The shape for a batch whose longest row has `max_seqlen` tokens."""
    return _SHORT if max_seqlen <= _SHORT.rows else _LONG


def tiles(cu_seqlens: np.ndarray, tile_rows: int) -> np.ndarray:
    """(num_tiles, 3) int32: first token and end of a row, and the first query of a tile of `tile_rows` queries."""
    begins, ends = cu_seqlens[:-1], cu_seqlens[1:]
    counts = -(-(ends - begins) // tile_rows)
    row = np.repeat(np.arange(len(begins)), counts)
    number = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.stack([begins[row], ends[row], begins[row] + number * tile_rows], axis=1).astype(np.int32)
