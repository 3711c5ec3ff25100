"""What a captured decode step reads: buffers at fixed addresses, filled anew before every replay."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from parquetry.workers.packed.attention.call import AttentionStep, SharedKeys
from parquetry.workers.packed.scheduling.batch import Batch
from parquetry.workers.packed.scheduling.sharing import MIN_ROWS
from parquetry.workers.packed.step_tensors import DeviceLanes, StepTensors

#: what the host knows of every decode as int64 (lane, position, column of its table, slot, position of the new token),
#: and as int32 (lane, length, block)
NUM_WIDE, NUM_NARROW = 5, 3


class GraphInputs:
    """Lanes, positions and blocks of up to `max_size` decodes, and what they share.

    The host sends what it can compute in one copy: every small kernel of a step costs the device some microseconds.
    """

    def __init__(self, lanes: DeviceLanes, max_size: int, padding_block: int) -> None:
        self.device_lanes = lanes
        self.padding_lane = len(lanes.tokens) - 1
        self.padding_block = padding_block
        self.decodes = torch.zeros(num_words(max_size), dtype=torch.int64, device=lanes.device)
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
        _send(_decode_words(host[0], host[1], host[2], self.device_lanes.block_size), self.decodes)
        if is_shared:
            _send(_shared_array(size, batch), self.shared)

    def step(self, size: int, *, is_shared: bool) -> StepTensors:
        """The tensors of the step: views of the buffers, and what only the device knows."""
        width = row_width(size)
        wide, narrow = self.decodes[: num_words(size)].split([NUM_WIDE * width, num_words(size) - NUM_WIDE * width])
        lanes, positions, columns, slots, next_positions = wide.view(NUM_WIDE, width)[:, :size]
        lanes32, lens, blocks = narrow.view(torch.int32).view(NUM_NARROW, width)[:, :size]
        self.device_lanes.set_blocks(lanes, columns, blocks)
        attention = AttentionStep(
            slot_mapping=slots,
            tables=self.device_lanes.tables,
            block_size=self.device_lanes.block_size,
            num_decodes=size,
            decode_lanes=lanes32,
            decode_lens=lens,
            shared=self._shared_keys(size) if is_shared else None,
        )
        ids, adapters = self.device_lanes.tokens[lanes], self.device_lanes.adapters[lanes]
        are_long = self.device_lanes.are_long[lanes]
        return StepTensors(ids, positions, attention, 0, lanes, next_positions, adapters, are_long)

    def _shared_keys(self, size: int) -> SharedKeys:
        tiles = max_tiles(size)
        return SharedKeys(*self.shared[: size + 2 * tiles].split([size, tiles, tiles]))


def row_width(size: int) -> int:
    """Values in a row, so that each row starts at a multiple of 16 bytes: kernels would be compiled anew elsewhere."""
    return -(-size // 4) * 4


def num_words(size: int) -> int:
    """Words of 8 bytes that `size` decodes take."""
    return (2 * NUM_WIDE + NUM_NARROW) * row_width(size) // 2


def max_tiles(size: int) -> int:
    """Most tiles that `size` decodes can be in: each is the whole of a group, or full."""
    return max(1, size // MIN_ROWS)


def _decode_words(lanes: np.ndarray, positions: np.ndarray, blocks: np.ndarray, block_size: int) -> np.ndarray:
    """All that is known of decodes, (size,) each, as (num_words,) int64."""
    size, width = len(lanes), row_width(len(lanes))
    words = np.zeros(num_words(size), dtype=np.int64)
    wide = words[: NUM_WIDE * width].reshape(NUM_WIDE, width)
    narrow = words[NUM_WIDE * width :].view(np.int32).reshape(NUM_NARROW, width)
    slots = blocks * block_size + positions % block_size
    wide[:, :size] = lanes, positions, positions // block_size, slots, positions + 1
    narrow[:, :size] = lanes, positions + 1, blocks
    return words


def _shared_array(size: int, batch: Batch | None) -> np.ndarray:
    """Lengths (size,), then starts and counts of the tiles (max_tiles,) each."""
    arrays = [np.zeros(size, dtype=np.int32), *(np.zeros(max_tiles(size), dtype=np.int32) for _ in range(2))]
    if batch is not None and batch.shared is not None:
        shared = batch.shared
        for array, values in zip(arrays, (shared.lens, shared.starts, shared.counts), strict=True):
            array[: len(values)] = values
    return np.concatenate(arrays)


def _send(host: np.ndarray, buffer: Tensor) -> None:
    sent = torch.from_numpy(host)
    buffer[: len(host)].copy_(sent.pin_memory() if buffer.is_cuda else sent, non_blocking=True)
