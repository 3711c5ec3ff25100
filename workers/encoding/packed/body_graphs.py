"""The body's forward pass as CUDA graphs for a ladder of token counts: one launch a batch instead of hundreds."""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import Tensor

from parquetry.schemas.errors import EngineRefusedError
from parquetry.workers.checks.comparison import TINY
from parquetry.workers.checks.stock_run import ROUNDING, distance
from parquetry.workers.encoding.attention.tiles import tile_shape
from parquetry.workers.encoding.attention.varlen_hook import LONGEST_TILED, serves_tiles
from parquetry.workers.encoding.batching.device_batch import HostSegments, Layout, copy_to_device
from parquetry.workers.encoding.batching.row_batch import PackedBatch
from parquetry.workers.encoding.packed.body import PackedBody

log = logging.getLogger(__name__)

#: sizes up to the token budget
_NUM_SIZES = 8
#: shortest average row of a batch that a graph's tile table has room for
_MEAN_ROW = 4
#: how many times the batch's noise a token of a replay may be off the same kernels launched one by one
_LIMIT = 4.0


class BodyGraphs:
    """Captured forward passes of one body. They share one memory pool; a replay overwrites the last one's output."""

    def __init__(self, body: PackedBody, budget: int, head_dim: int) -> None:
        self._body = body
        self._sizes = [budget * (step + 1) // _NUM_SIZES for step in range(_NUM_SIZES)]
        self._head_dim = head_dim
        self._graphs: dict[Layout, tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def num_free(self, batch: PackedBatch) -> int:
        """Tokens by which the batch's graph is larger than the batch."""
        return self._size(batch) - batch.num_tokens

    def _size(self, batch: PackedBatch) -> int:
        return next(size for size in self._sizes if size >= batch.num_tokens)

    def takes(self, batch: PackedBatch) -> bool:
        """Whether some graph has room for the batch, and the kernel in it serves its rows."""
        fits = self._sizes[0] // 2 < batch.num_tokens <= self._sizes[-1]
        has_room = batch.num_rows <= batch.num_tokens // _MEAN_ROW
        return fits and has_room and serves_tiles(batch.max_seqlen, self._head_dim)

    def __call__(self, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """As the body's own call; the hidden states are a view of graph memory."""
        size = self._size(batch)
        segments = self._body.segments(batch)
        layout = _layout(size, batch)
        values = layout.host(batch, self._body.positions.start)
        if layout not in self._graphs:
            self._capture(layout, values, segments, batch)
        graph, buffer, hidden = self._graphs[layout]
        buffer.copy_(torch.from_numpy(values).pin_memory(), non_blocking=True)
        graph.replay()
        return hidden[: batch.num_tokens], segments.cu_seqlens

    def _capture(self, layout: Layout, values: np.ndarray, segments: HostSegments, batch: PackedBatch) -> None:
        """Run once to compile and to have something to compare with, then capture and compare on the batch itself."""
        buffer = copy_to_device(values, self._body.device)
        # the kernel reads the rows from the tile table, so the graph must not depend on this batch's longest row
        segments = HostSegments(segments.cu_seqlens, LONGEST_TILED, [])
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            expected = self._body.forward(layout.split(buffer, segments)).clone()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=stream):
            hidden = self._body.forward(layout.split(buffer, segments))
        graph.replay()
        require_equal(hidden[: batch.num_tokens], expected[: batch.num_tokens], self._body(batch)[0])
        self._graphs[layout] = (graph, buffer, hidden)


def _layout(size: int, batch: PackedBatch) -> Layout:
    """Room for `size` tokens in the shape of tile that suits the batch."""
    tile = tile_shape(batch.max_seqlen)
    return Layout(size, size // tile.rows + size // _MEAN_ROW, tile)


def require_equal(found: Tensor, expected: Tensor, otherwise: Tensor) -> None:
    """Raise EngineRefusedError when a replay gives other hidden states than its kernels, all (num_tokens, dim).

    `otherwise` is what the batch gives in other shapes: how far it is off is noise, half of the tokens having less.
    """
    size = expected.float().norm(dim=-1)
    noise = distance(otherwise, expected).median() + ROUNDING[expected.dtype] * size
    off = float((distance(found, expected) / (noise + TINY)).max())
    # written so that NaN fails
    if not off <= _LIMIT:
        reason = (
            f"a captured graph is off its kernels by {off:.3g} times the batch's noise, where {_LIMIT:g} is allowed"
        )
        raise EngineRefusedError(reason=reason)
