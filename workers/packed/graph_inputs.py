"""What a captured decode step reads: buffers at fixed addresses, filled anew before every replay."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from workers.packed.attention import AttentionStep, SharedKeys
from workers.packed.batch import Batch
from workers.packed.sharing import MIN_ROWS
from workers.packed.step_tensors import DeviceLanes, StepTensors


class GraphInputs:
    """Lanes, positions and blocks of up to `max_size` decodes, and what they share."""

    def __init__(self, lanes: DeviceLanes, max_size: int, padding_block: int) -> None:
        self.lanes = lanes
        self.padding_lane = len(lanes.tokens) - 1
        self.padding_block = padding_block
        self.decodes = torch.zeros(3 * max_size, dtype=torch.int32, device=lanes.device)
        self.shared = torch.zeros(max_size + 2 * max_tiles(max_size), dtype=torch.int32, device=lanes.device)

    def fill(self, size: int, batch: Batch | None, *, is_shared: bool) -> None:
        """The decodes of `batch` in the first rows; the other rows, without a batch all, are padding.

        Padding computes position 0 of the padding lane and shares nothing; a tile of no rows ends at once.
        """
        host = np.zeros((3, size), dtype=np.int32)
        host[0], host[2] = self.padding_lane, self.padding_block
        if batch is not None:
            for row, values in zip(host, (batch.decode_lanes, batch.positions, batch.blocks), strict=True):
                row[: len(values)] = values
        _send(host.reshape(-1), self.decodes)
        if is_shared:
            _send(_shared_array(size, batch), self.shared)

    def step(self, size: int, *, is_shared: bool) -> StepTensors:
        """The tensors of the step, all of them views of the buffers or made of them on the device."""
        lanes32, positions32, blocks = self.decodes[: 3 * size].view(3, size)
        lanes, positions = lanes32.long(), positions32.long()
        tables = self.lanes
        attention = AttentionStep(
            slot_mapping=tables.place(lanes, positions, blocks),
            tables=tables.tables,
            block_size=tables.block_size,
            num_decodes=size,
            decode_lanes=lanes32,
            decode_lens=positions32 + 1,
            shared=self._shared_keys(size) if is_shared else None,
        )
        rows = torch.arange(size, device=lanes.device)
        ids, adapters = tables.tokens[lanes], tables.adapters[lanes]
        return StepTensors(ids, positions, attention, rows, lanes, positions + 1, adapters)

    def _shared_keys(self, size: int) -> SharedKeys:
        tiles = max_tiles(size)
        return SharedKeys(*self.shared[: size + 2 * tiles].split([size, tiles, tiles]))


def max_tiles(size: int) -> int:
    """Most tiles that `size` decodes can be in: each is the whole of a group, or full."""
    return max(1, size // MIN_ROWS)


def _shared_array(size: int, batch: Batch | None) -> np.ndarray:
    """Lengths (size,), then starts and counts of the tiles (max_tiles,) each."""
    parts = [np.zeros(size, dtype=np.int32), *(np.zeros(max_tiles(size), dtype=np.int32) for _ in range(2))]
    if batch is not None and batch.shared is not None:
        shared = batch.shared
        for part, values in zip(parts, (shared.lens, shared.starts, shared.counts), strict=True):
            part[: len(values)] = values
    return np.concatenate(parts)


def _send(host: np.ndarray, buffer: Tensor) -> None:
    sent = torch.from_numpy(host)
    buffer[: len(host)].copy_(sent.pin_memory() if buffer.is_cuda else sent, non_blocking=True)
