"""A scheduled batch as device tensors: one buffer, one copy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from parquetry.workers.packed.attention.call import AttentionStep, PrefillTensors, SharedKeys
from parquetry.workers.packed.scheduling.batch import Batch, PrefillChunk


class DeviceLanes:
    """What the device knows of every lane: its newest token and its blocks. The last lane is for padding."""

    def __init__(self, num_lanes: int, max_blocks: int, block_size: int, device: torch.device) -> None:
        self.block_size = block_size
        self.device = device
        self.tokens = torch.zeros(num_lanes + 1, dtype=torch.int64, device=device)
        self.tables = torch.zeros(num_lanes + 1, max_blocks, dtype=torch.int32, device=device)
        #: number of each lane's adapter
        self.adapters = torch.zeros(num_lanes + 1, dtype=torch.int64, device=device)
        #: whether each lane's row has the rotary frequencies of long rows
        self.are_long = torch.zeros(num_lanes + 1, dtype=torch.bool, device=device)

    def set_blocks(self, lanes: Tensor, columns: Tensor, blocks: Tensor) -> None:
        """Note that `blocks` (n,) int32 are those of `lanes` at `columns` of their tables, (n,) int64 each."""
        self.tables[lanes, columns] = blocks


@dataclass
class StepTensors:
    """Inputs of one forward pass over `num_tokens` packed tokens."""

    input_ids: Tensor
    position_ids: Tensor
    attention: AttentionStep
    #: (num_sampled,) rows to keep logits of, 0 keeps all; their lanes, and the positions the new tokens will have
    sample_rows: Tensor | int
    sample_lanes: Tensor
    sample_positions: Tensor
    #: (num_tokens,) number of each token's adapter, and whether it belongs to a long row
    adapters: Tensor
    are_long: Tensor


@dataclass
class Candidates:
    """What a step samples from: logits (num_sampled, vocab), and the lanes and positions of the new tokens."""

    logits: Tensor
    lanes: Tensor
    positions: Tensor


def upload(arrays: list[np.ndarray], device: torch.device) -> list[Tensor]:
    """Copy int32 arrays to the device in one transfer that does not wait; each arrives aligned to 16 bytes."""
    starts = np.cumsum([0, *(-(-len(array) // 4) * 4 for array in arrays)])
    flat = np.zeros(starts[-1], dtype=np.int32)
    for start, array in zip(starts, arrays, strict=False):
        flat[start : start + len(array)] = array
    sent = torch.from_numpy(flat)
    if device.type == "cuda":
        sent = sent.pin_memory().to(device, non_blocking=True)
    return [sent[start : start + len(array)] for start, array in zip(starts.tolist(), arrays, strict=False)]


def decode_slots(batch: Batch, block_size: int) -> np.ndarray:
    """Slots of the tokens that the decodes compute, (num_decodes,)."""
    return batch.blocks * block_size + batch.positions % block_size


def chunk_slots(chunk: PrefillChunk, positions: np.ndarray, block_size: int) -> np.ndarray:
    """Slots of the tokens of a chunk, (stop - start,)."""
    blocks = np.asarray(chunk.sequence.blocks, dtype=np.int32)
    return blocks[positions // block_size] * block_size + positions % block_size


def table_entries(batch: Batch) -> list[np.ndarray]:
    """(lane, column, block) of every block that the admitted sequences start with, as three arrays."""
    lanes = [np.full(len(s.blocks), s.lane, dtype=np.int32) for s in batch.admitted]
    columns = [np.arange(len(s.blocks), dtype=np.int32) for s in batch.admitted]
    blocks = [np.asarray(s.blocks, dtype=np.int32) for s in batch.admitted]
    return [np.concatenate(part) for part in (lanes, columns, blocks)]


def row_entries(batch: Batch) -> list[np.ndarray]:
    """(lane, number of its adapter, whether it is a long row) of every admitted sequence, as three arrays."""
    rows = ((s.lane, s.adapter, s.is_long) for s in batch.admitted)
    return [np.asarray(column, np.int32) for column in zip(*rows, strict=True)]


class StepBuilder:
    """Turns batches into tensors against one set of device lanes."""

    def __init__(self, lanes: DeviceLanes) -> None:
        self.device_lanes = lanes

    def build(self, batch: Batch) -> StepTensors:
        """Tensors of any batch: decodes first, chunks behind them."""
        if batch.admitted:
            lanes, columns, blocks = upload(table_entries(batch), self.device_lanes.device)
            self.device_lanes.set_blocks(lanes.long(), columns.long(), blocks)
            admitted, numbers, are_long = upload(row_entries(batch), self.device_lanes.device)
            self.device_lanes.adapters[admitted.long()] = numbers.long()
            self.device_lanes.are_long[admitted.long()] = are_long.bool()
        host = self._host_arrays(batch)
        sent = dict(zip(host, upload(list(host.values()), self.device_lanes.device), strict=True))
        n = len(batch.decode_lanes)
        lanes, positions = sent["decode_lanes"].long(), sent["positions"].long()
        self.device_lanes.set_blocks(lanes, sent["decode_columns"].long(), sent["decode_blocks"])
        attention = AttentionStep(
            slot_mapping=sent["slots"].long(),
            tables=self.device_lanes.tables,
            block_size=self.device_lanes.block_size,
            num_decodes=n,
            decode_lanes=sent["decode_lanes"],
            decode_lens=sent["positions"][:n] + 1,
            prefill=self._prefill_tensors(batch, sent) if batch.chunks else None,
            shared=None if batch.shared is None else SharedKeys(*(sent[name] for name in vars(batch.shared))),
        )
        rows = sent["sample_rows"].long()
        ids = torch.cat([self.device_lanes.tokens[lanes], sent["chunk_ids"].long()])
        owners, next_positions = sent["token_lanes"].long(), positions[rows] + 1
        adapters, are_long = self.device_lanes.adapters[owners], self.device_lanes.are_long[owners]
        sampled = sent["sample_lanes"].long()
        return StepTensors(ids, positions, attention, rows, sampled, next_positions, adapters, are_long)

    def _host_arrays(self, batch: Batch) -> dict[str, np.ndarray]:
        chunks = batch.chunks
        empty = np.empty(0, dtype=np.int32)
        spans = [np.arange(chunk.start, chunk.stop, dtype=np.int32) for chunk in chunks]
        lens = np.asarray([len(span) for span in spans], dtype=np.int32)
        ends = len(batch.decode_lanes) + np.cumsum(lens, dtype=np.int32)
        last = np.asarray([chunk.is_last for chunk in chunks], dtype=bool)
        chunk_lanes = np.asarray([chunk.lane for chunk in chunks], dtype=np.int32)
        size = self.device_lanes.block_size
        chunk_spans = (chunk_slots(c, s, size) for c, s in zip(chunks, spans, strict=True))
        return {
            "decode_lanes": batch.decode_lanes,
            "decode_blocks": batch.blocks,
            "decode_columns": batch.positions // size,
            "positions": np.concatenate([batch.positions, *spans]),
            "slots": np.concatenate([decode_slots(batch, size), *chunk_spans]),
            "chunk_ids": np.concatenate([empty, *(c.sequence.tokens[c.start : c.stop] for c in chunks)]),
            "chunk_lanes": chunk_lanes,
            "token_lanes": np.concatenate([batch.decode_lanes, np.repeat(chunk_lanes, lens)]),
            "context_lens": np.asarray([chunk.stop for chunk in chunks], dtype=np.int32),
            "cu_seqlens": np.concatenate([np.zeros(1, dtype=np.int32), np.cumsum(lens, dtype=np.int32)]),
            "sample_rows": np.concatenate([np.arange(len(batch.decode_lanes), dtype=np.int32), ends[last] - 1]),
            "sample_lanes": batch.sampled_lanes,
            **({} if batch.shared is None else vars(batch.shared)),
        }

    def rehearsal(self, num_tokens: int, num_sampled: int, max_model_len: int) -> StepTensors:
        """Fresh prompts of `num_tokens` in all that belong to nobody: they are written to the last lane's block 0."""
        device, size = self.device_lanes.device, self.device_lanes.block_size
        lens = [max_model_len] * (num_tokens // max_model_len) + [num_tokens % max_model_len]
        lens = [length for length in lens if length]
        positions = torch.cat([torch.arange(length, device=device) for length in lens])
        context = torch.tensor(lens, dtype=torch.int32, device=device)
        cu_seqlens = torch.tensor([0, *np.cumsum(lens)], dtype=torch.int32, device=device)
        lanes = torch.full((len(lens),), len(self.device_lanes.tokens) - 1, dtype=torch.int32, device=device)
        prefill = PrefillTensors(cu_seqlens, max(lens), context, lanes, True, lens, lens)
        attention = AttentionStep(positions % size, self.device_lanes.tables, size, 0, lanes[:0], context[:0], prefill)
        rows = torch.arange(num_sampled, device=device) % num_tokens
        padding = torch.full_like(rows, len(self.device_lanes.tokens) - 1)
        nothing = torch.zeros_like(positions)
        return StepTensors(nothing, positions, attention, rows, padding, rows, nothing, nothing.bool())

    @staticmethod
    def _prefill_tensors(batch: Batch, sent: dict[str, Tensor]) -> PrefillTensors:
        lens = [chunk.stop - chunk.start for chunk in batch.chunks]
        contexts = [chunk.stop for chunk in batch.chunks]
        return PrefillTensors(
            cu_seqlens=sent["cu_seqlens"],
            max_seqlen=max(lens),
            context_lens=sent["context_lens"],
            lanes=sent["chunk_lanes"],
            is_fresh=all(chunk.start == 0 for chunk in batch.chunks),
            query_lens=lens,
            host_context_lens=contexts,
        )
