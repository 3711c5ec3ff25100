"""Decode steps as CUDA graphs: the whole step, token table and sampler included, for a ladder of batch sizes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from workers.packed.attention import AttentionStep
from workers.packed.sampler import SamplingMode
from workers.packed.scheduler import Batch
from workers.packed.step_tensors import Choice, StepTensors

if TYPE_CHECKING:
    from workers.packed.runner import ModelRunner

log = logging.getLogger(__name__)

Output = tuple[Tensor, Tensor | None]


def ladder(max_size: int) -> list[int]:
    """Batch sizes to capture, largest first. No 1: compilers treat a dimension of one as a case of its own."""
    sizes = {2, 4, *range(8, 257, 8), *range(256, 513, 16), *range(512, max_size + 1, 32), max_size}
    return sorted((size for size in sizes if 2 <= size <= max_size), reverse=True)


class DecodeGraphs:
    """Captured decode steps of one runner. They share one input buffer and one memory pool."""

    def __init__(self, runner: ModelRunner, max_size: int, padding_block: int) -> None:
        self.runner = runner
        self.sizes = ladder(max_size)
        self.padding_lane = len(runner.lanes.tokens) - 1
        self.padding_block = padding_block
        self.inputs = torch.zeros(3 * max_size, dtype=torch.int32, device=runner.lanes.device)
        #: what a graph leaves behind: tokens and log-probabilities, or a Choice where it has no mode
        self._graphs: dict[tuple[int, SamplingMode | None], tuple[torch.cuda.CUDAGraph, Any]] = {}
        self._pool = torch.cuda.graph_pool_handle()
        # One for all: every stream brings a matmul workspace and a part of the allocator's memory of its own.
        self._stream = torch.cuda.Stream()
        self._size_for = self._round_up_table(max_size)

    def _round_up_table(self, max_size: int) -> list[int]:
        table, ascending = [], iter(sorted(self.sizes))
        size = next(ascending)
        for n in range(max_size + 1):
            if n > size:
                size = next(ascending)
            table.append(size)
        return table

    def prepare(self) -> None:
        """Capture the greedy ladder, largest first so that smaller ones reuse its memory, and check it."""
        for size in self.sizes:
            self._capture(size, SamplingMode.GREEDY)
        self.check()

    @torch.inference_mode()
    def check(self) -> None:
        """Raise RuntimeError unless a replayed step chooses the tokens that the same step chooses without a graph."""
        size, tokens = self.sizes[-1], self.runner.lanes.tokens
        tokens[self.padding_lane] = 1
        want = self._run(size, SamplingMode.GREEDY)[0].clone()
        tokens[self.padding_lane] = 1
        graph, (got, _) = self._graphs[size, SamplingMode.GREEDY]
        graph.replay()
        if not torch.equal(got, want):
            raise RuntimeError("a replayed decode step disagrees with the same step run eagerly")

    def takes(self, batch: Batch) -> bool:
        """Whether this batch is decodes alone, and few enough."""
        return not batch.chunks and 0 < len(batch.decode_lanes) < len(self._size_for)

    @torch.inference_mode()
    def replay(self, batch: Batch, mode: SamplingMode) -> Output:
        """Run one decode step; the outputs are views of graph memory, (num_decodes,) long."""
        tokens, logprobs = self._replay(batch, mode)
        count = len(batch.decode_lanes)
        return tokens[:count], None if logprobs is None else logprobs[:count]

    @torch.inference_mode()
    def replay_forward(self, batch: Batch) -> Choice:
        """Run one decode step up to its logits, for tokens whose masks are still on their way."""
        choice = self._replay(batch, None)
        count = len(batch.decode_lanes)
        return Choice(choice.logits[:count], choice.lanes[:count], choice.positions[:count])

    def ensure(self, batch: Batch, mode: SamplingMode | None) -> None:
        """Capture the step of this batch, to its logits without a mode, unless it has been."""
        size = self._size_for[len(batch.decode_lanes)]
        if (size, mode) not in self._graphs:
            self._capture(size, mode)

    def _replay(self, batch: Batch, mode: SamplingMode | None) -> Any:
        self.ensure(batch, mode)
        count = len(batch.decode_lanes)
        size = self._size_for[count]
        self._fill(batch, size)
        graph, output = self._graphs[size, mode]
        graph.replay()
        self.runner.num_padding_tokens += size - count
        return output

    def _fill(self, batch: Batch, size: int) -> None:
        """Lanes, positions and blocks of the decodes; padding rows compute position 0 of the padding lane."""
        host = np.zeros((3, size), dtype=np.int32)
        host[0], host[2] = self.padding_lane, self.padding_block
        for row, values in zip(host, (batch.decode_lanes, batch.positions, batch.blocks), strict=True):
            row[: len(values)] = values
        self.inputs[: 3 * size].copy_(torch.from_numpy(host.reshape(-1)).pin_memory(), non_blocking=True)

    def _step(self, size: int) -> StepTensors:
        lanes32, positions32, blocks = self.inputs[: 3 * size].view(3, size)
        lanes, positions = lanes32.long(), positions32.long()
        tables = self.runner.lanes
        attention = AttentionStep(
            slot_mapping=tables.place(lanes, positions, blocks),
            tables=tables.tables,
            block_size=tables.block_size,
            num_decodes=size,
            decode_lanes=lanes32,
            decode_lens=positions32 + 1,
            max_decode_len=tables.tables.shape[1] * tables.block_size,
        )
        rows = torch.arange(size, device=lanes.device)
        return StepTensors(tables.tokens[lanes], positions, attention, rows, lanes, positions + 1)

    @torch.inference_mode()
    def _capture(self, size: int, mode: SamplingMode | None) -> None:
        """Warm up on the padding lane, then capture; without a mode the step ends at its logits."""
        host = torch.zeros(3, size, dtype=torch.int32)
        host[0], host[2] = self.padding_lane, self.padding_block
        self.inputs[: 3 * size].copy_(host.view(-1))
        stream = self._stream
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._run(size, mode)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # exchanges between ranks come with threads of their own, which may not spoil the capture
        errors = "global" if self.runner.group.size == 1 else "thread_local"
        with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode=errors):
            output = self._run(size, mode)
        self._graphs[size, mode] = (graph, output)

    def _run(self, size: int, mode: SamplingMode | None) -> Any:
        step = self._step(size)
        return self.runner.choice(step) if mode is None else self.runner.run(step, mode)
