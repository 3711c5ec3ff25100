"""A packed batch on the device, brought there in one copy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from parquetry.workers.encoding.attention.tiles import TileShape, tile_shape, tiles
from parquetry.workers.encoding.attention.varlen_hook import Segments
from parquetry.workers.encoding.batching.row_batch import PackedBatch


@dataclass(frozen=True)
class Layout:
    """How many int32 each part of a batch takes in its buffer."""

    num_tokens: int
    num_tiles: int
    tile: TileShape

    @property
    def sizes(self) -> list[int]:
        """Token ids, positions, segment ids, tiles, number of tiles."""
        return [self.num_tokens, self.num_tokens, self.num_tokens, 3 * self.num_tiles, 1]

    def host(self, batch: PackedBatch, position_start: int) -> np.ndarray:
        """(sum of sizes,) int32; what the batch leaves free is 0."""
        table = tiles(batch.cu_seqlens, self.tile.rows)
        types = batch.token_type_ids if batch.token_type_ids is not None else _NONE
        parts = [batch.input_ids, batch.positions(position_start), types, table.reshape(-1), [len(table)]]
        buffer, start = np.zeros(sum(self.sizes), np.int32), 0
        for part, size in zip(parts, self.sizes, strict=True):
            buffer[start : start + len(part)] = part
            start += size
        return buffer

    def split(self, buffer: Tensor, segments: HostSegments) -> DeviceBatch:
        """The parts of a device buffer that was filled by `host`."""
        ids, positions, types, table, count = buffer.split(self.sizes)
        tile_table = table.view(-1, 3)
        return DeviceBatch(
            ids.long()[None],
            positions.long()[None],
            types.long()[None],
            Segments(segments.cu_seqlens, segments.max_seqlen, segments.runs, tile_table, count, self.tile),
        )


_NONE = np.empty(0, np.int32)


@dataclass(frozen=True, eq=False)
class HostSegments:
    """What the kernels want to know of a batch on the host, and cu_seqlens (num_rows + 1,) on the device."""

    cu_seqlens: Tensor
    max_seqlen: int
    runs: list[tuple[int, int]]


@dataclass(frozen=True, eq=False)
class DeviceBatch:
    """ids, positions and types are (1, num_tokens) int64."""

    ids: Tensor
    positions: Tensor
    types: Tensor
    segments: Segments


def layout_of(batch: PackedBatch) -> Layout:
    """The layout without free space."""
    tile = tile_shape(batch.max_seqlen)
    return Layout(batch.num_tokens, int((-(-batch.lens // tile.rows)).sum()), tile)


def copy_to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """Copy to the device; from pinned memory and without waiting on a GPU."""
    host = torch.from_numpy(array)
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host
