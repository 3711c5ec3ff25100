"""Which queries one program of the varlen kernel computes."""

from __future__ import annotations

import numpy as np

#: queries of one tile; rows are short, so larger tiles would be mostly empty
TILE_ROWS = 64


def tiles(cu_seqlens: np.ndarray, tile_rows: int) -> np.ndarray:
    """(num_tiles, 3) int32: first token and end of a row, and the first query of a tile of `tile_rows` queries."""
    begins, ends = cu_seqlens[:-1], cu_seqlens[1:]
    counts = -(-(ends - begins) // tile_rows)
    row = np.repeat(np.arange(len(begins)), counts)
    number = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.stack([begins[row], ends[row], begins[row] + number * tile_rows], axis=1).astype(np.int32)
