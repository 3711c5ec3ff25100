"""Decode steps as CUDA graphs: the whole step, token table and sampler included, for a ladder of batch sizes."""

from __future__ import annotations

import logging
from bisect import bisect_left
from typing import Any, NamedTuple

import torch

from parquetry.workers.packed.forward import Forward, Sampled
from parquetry.workers.packed.graph_inputs import GraphInputs
from parquetry.workers.packed.sampling.sampler import SamplingMode
from parquetry.workers.packed.scheduling.batch import Batch
from parquetry.workers.packed.step_tensors import Candidates

log = logging.getLogger(__name__)


class Kind(NamedTuple):
    """What one graph computes."""

    size: int
    #: None ends the step at its logits
    mode: SamplingMode | None
    #: whether decodes read what they share only once
    is_shared: bool = False


def ladder(max_size: int) -> list[int]:
    """Batch sizes to capture, ascending. No 1: compilers treat a dimension of one as a case of its own."""
    sizes = {2, 4, *range(8, 257, 8), *range(256, 513, 16), *range(512, max_size + 1, 32), max_size}
    return sorted(size for size in sizes if 2 <= size <= max_size)


def coarse(sizes: list[int]) -> list[int]:
    """Those of the ladder that are captured when they are first needed: fewer, since each takes a while."""
    return [size for size in sizes if size % 128 == 0 or size & (size - 1) == 0 or size == sizes[-1]]


class DecodeGraphs:
    """Captured decode steps. They share their inputs and one memory pool."""

    def __init__(self, forward: Forward, max_size: int, padding_block: int) -> None:
        self.forward = forward
        self.sizes = ladder(max_size)
        self.coarse_sizes = coarse(self.sizes)
        self.inputs = GraphInputs(forward.device_lanes, max_size, padding_block)
        #: rows that replays computed for nobody
        self.num_padding_tokens = 0
        #: what a graph leaves behind: sampled tokens, or Candidates where it has no mode
        self._graphs: dict[Kind, tuple[torch.cuda.CUDAGraph, Any]] = {}
        self._pool = torch.cuda.graph_pool_handle()
        # One for all: every stream brings a matmul workspace and a part of the allocator's memory of its own.
        self._stream = torch.cuda.Stream()

    @property
    def kinds(self) -> list[Kind]:
        """What has been captured, in order."""
        return list(self._graphs)

    def prepare(self) -> None:
        """Capture the greedy ladder, largest first so that smaller ones reuse its memory, and check it."""
        for size in reversed(self.sizes):
            self._capture(Kind(size, SamplingMode.GREEDY))
        self.check()

    @torch.inference_mode()
    def check(self) -> None:
        """Raise RuntimeError unless a replayed step chooses the tokens that the same step chooses without a graph."""
        kind, tokens = Kind(self.sizes[0], SamplingMode.GREEDY), self.forward.device_lanes.tokens
        tokens[self.inputs.padding_lane] = 1
        want = self._compute(kind)[0].clone()
        tokens[self.inputs.padding_lane] = 1
        graph, (got, _) = self._graphs[kind]
        graph.replay()
        if not torch.equal(got, want):
            raise RuntimeError("a replayed decode step disagrees with the same step run eagerly")

    def takes(self, batch: Batch) -> bool:
        """Whether this batch is decodes alone, and few enough."""
        return not batch.chunks and 0 < len(batch.decode_lanes) <= self.sizes[-1]

    @torch.inference_mode()
    def tokens(self, batch: Batch, mode: SamplingMode) -> Sampled:
        """Run one decode step; the outputs are views of graph memory, (num_decodes,) long."""
        tokens, logprobs = self._replay(batch, mode)
        count = len(batch.decode_lanes)
        return tokens[:count], None if logprobs is None else logprobs[:count]

    @torch.inference_mode()
    def candidates(self, batch: Batch) -> Candidates:
        """Run one decode step up to its logits, for tokens whose masks are still on their way."""
        found = self._replay(batch, None)
        count = len(batch.decode_lanes)
        return Candidates(found.logits[:count], found.lanes[:count], found.positions[:count])

    def _kind(self, batch: Batch, mode: SamplingMode | None) -> Kind:
        is_shared = batch.shared is not None
        sizes = self.coarse_sizes if is_shared else self.sizes
        return Kind(sizes[bisect_left(sizes, len(batch.decode_lanes))], mode, is_shared)

    def ensure(self, batch: Batch, mode: SamplingMode | None) -> None:
        """Capture the step of this batch, to its logits without a mode, unless it has been."""
        kind = self._kind(batch, mode)
        if kind not in self._graphs:
            self._capture(kind)

    def _replay(self, batch: Batch, mode: SamplingMode | None) -> Any:
        self.ensure(batch, mode)
        kind = self._kind(batch, mode)
        self.inputs.fill(kind.size, batch, is_shared=kind.is_shared)
        graph, output = self._graphs[kind]
        graph.replay()
        self.num_padding_tokens += kind.size - len(batch.decode_lanes)
        return output

    @torch.inference_mode()
    def _capture(self, kind: Kind) -> None:
        """Warm up on the padding lane, then capture."""
        self.inputs.fill(kind.size, None, is_shared=kind.is_shared)
        stream = self._stream
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._compute(kind)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # exchanges between ranks come with threads of their own, which may not spoil the capture
        errors = "global" if self.forward.group.size == 1 else "thread_local"
        with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode=errors):
            output = self._compute(kind)
        self._graphs[kind] = (graph, output)

    def _compute(self, kind: Kind) -> Any:
        step = self.inputs.step(kind.size, is_shared=kind.is_shared)
        return self.forward.candidates(step) if kind.mode is None else self.forward.tokens(step, kind.mode)
