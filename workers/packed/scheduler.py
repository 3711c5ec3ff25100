"""Decides what the next step computes: every decode, then prefill chunks until the token budget is spent."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from workers.packed.blocks import BlockPool
from workers.packed.lanes import LaneTable
from workers.packed.prefix import chain_block_keys
from workers.packed.sequence import Sequence
from workers.packed.sharing import PrefixGroups, SharedPrefix
from workers.packed.waiting import WaitingQueue


@dataclass(frozen=True)
class PrefillChunk:
    """Tokens [start, stop) of one sequence; the last chunk of a prompt samples its first output."""

    sequence: Sequence
    lane: int
    start: int
    stop: int

    @property
    def is_last(self) -> bool:
        return self.stop == self.sequence.num_tokens


@dataclass
class Batch:
    """One step: `decode_lanes` (num_decodes,) advance by one token, `chunks` are prefilled beside them."""

    decode_lanes: np.ndarray
    #: (num_decodes,) position of the token each decode computes, and the block it goes to
    positions: np.ndarray
    blocks: np.ndarray
    chunks: list[PrefillChunk]
    #: sequences that got their lane in this step
    admitted: list[Sequence] = field(default_factory=list)
    #: what the decodes need not read one by one
    shared: SharedPrefix | None = None

    @property
    def num_tokens(self) -> int:
        return len(self.decode_lanes) + sum(chunk.stop - chunk.start for chunk in self.chunks)

    @property
    def sampled_lanes(self) -> np.ndarray:
        """(num_sampled,) lanes that get a token from this step: the decodes, then the finished prompts."""
        last = [chunk.lane for chunk in self.chunks if chunk.is_last]
        return np.concatenate([self.decode_lanes, np.asarray(last, dtype=np.int32)])


class Scheduler:
    """Continuous batching over a block pool.

    It runs ahead of the device: it knows how many tokens each sequence has, never which ones. A sequence that turns
    out to have stopped costs one wasted token. A preempted sequence starts again from the tokens known by then; what
    was still in flight is dropped and sampled again, to the same token, because sampling is keyed by position.
    """

    def __init__(
        self,
        pool: BlockPool,
        lanes: LaneTable,
        *,
        token_budget: int,
        max_model_len: int,
        full_step: int | None = None,
        prefix_cache: bool = True,
        groups: PrefixGroups | None = None,
    ) -> None:
        """Steps of more than `full_step` tokens are cut to multiples of it; None keeps prompts whole instead.

        `groups` are kept for an engine that can read a shared prefix once.
        """
        self.pool = pool
        self.lanes = lanes
        self.token_budget = token_budget
        self.full_step = full_step
        self.max_model_len = max_model_len
        self.prefix_cache = prefix_cache
        self.groups = groups
        self.waiting = WaitingQueue(grouped=prefix_cache)
        #: lane -> sequence, oldest admission first
        self.running: dict[int, Sequence] = {}
        self.failed: list[tuple[Sequence, str]] = []
        self.num_preemptions = 0
        self.num_cached_tokens = 0
        self._prefilling: deque[Sequence] = deque()
        self._decoding = np.empty(0, dtype=np.int32)

    @property
    def num_unfinished(self) -> int:
        return len(self.waiting) + len(self.running) + len(self.failed)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence; one that can never fit goes to `failed` at once."""
        reason = self._misfit(sequence)
        if reason is None:
            self.waiting.append(sequence)
        else:
            self.failed.append((sequence, reason))

    def _misfit(self, sequence: Sequence) -> str | None:
        num_tokens = sequence.num_prompt_tokens
        if num_tokens == 0:
            return "the prompt is empty"
        if num_tokens >= self.max_model_len:
            return f"the prompt has {num_tokens} tokens; prompt and output together may have {self.max_model_len}"
        capacity = self.pool.num_blocks * self.pool.block_size
        if num_tokens > capacity:
            return f"the prompt has {num_tokens} tokens; the KV cache holds {capacity}"
        return None

    def schedule(self) -> Batch | None:
        """The next step, or None when nothing can be computed now."""
        lanes = self.lanes
        decodes = self._grow(self._decoding[lanes.computed[self._decoding] < lanes.end[self._decoding]])
        # Longest context first: attention programs start in this order, so the last ones to end are short.
        decodes = decodes[np.argsort(-lanes.computed[decodes], kind="stable")]
        decodes, shared = self._arrange(decodes)
        batch = Batch(decodes, lanes.computed[decodes], lanes.last_block[decodes], [], shared=shared)
        lanes.computed[decodes] += 1
        self._fill(batch, self._num_wanted(len(decodes)) - len(decodes))
        return batch if len(decodes) or batch.chunks else None

    def _arrange(self, decodes: np.ndarray) -> tuple[np.ndarray, SharedPrefix | None]:
        if self.groups is None:
            return decodes, None
        self.groups.look(self.running.values())
        return self.groups.arrange(decodes)

    def _grow(self, decodes: np.ndarray) -> np.ndarray:
        """Give a block to each decode whose last one is full; returns the decodes that are still running."""
        lanes = self.lanes
        full = decodes[lanes.computed[decodes] == lanes.num_blocks[decodes] * self.pool.block_size]
        before = self.num_preemptions + len(self.failed)
        for lane in full.tolist():
            while lane in self.running and not self._try_extend(lane):
                self._make_room()
        if self.num_preemptions + len(self.failed) == before:
            return decodes
        return np.asarray([lane for lane in decodes.tolist() if lane in self.running], dtype=np.int32)

    def _try_extend(self, lane: int) -> bool:
        blocks = self.pool.try_allocate(1)
        if blocks is None:
            return False
        self.running[lane].blocks += blocks
        self.lanes.num_blocks[lane] += 1
        self.lanes.last_block[lane] = blocks[0]
        return True

    def _make_room(self) -> None:
        """Preempt the youngest sequence; the only one left has the whole cache and still no room, so it fails."""
        youngest = next(reversed(self.running.values()))
        if len(self.running) > 1:
            self.preempt(youngest)
            return
        num_tokens = int(self.lanes.computed[youngest.lane]) + 1
        capacity = self.pool.num_blocks * self.pool.block_size
        self.release(youngest)
        self.failed.append((youngest, f"the sequence reached {num_tokens} tokens; the KV cache holds {capacity}"))

    def _num_wanted(self, num_decodes: int) -> int:
        """Most tokens of this step: the budget, or what there is, cut to a multiple of `full_step`."""
        if self.full_step is None:
            return self.token_budget
        ready = min(self.token_budget, num_decodes + self._num_ready(self.token_budget))
        cut = ready // self.full_step * self.full_step
        return cut if cut > num_decodes else self.token_budget

    def _num_ready(self, limit: int) -> int:
        """About how many tokens of prompts could be computed now; stops counting at `limit`."""
        count = sum(sequence.num_tokens - int(self.lanes.computed[sequence.lane]) for sequence in self._prefilling)
        for sequence in islice(self.waiting, self.lanes.num_free):
            if count >= limit:
                break
            count += sequence.num_tokens - len(self._cached_blocks(sequence)) * self.pool.block_size
        return count

    def _fill(self, batch: Batch, budget: int) -> None:
        finished: list[int] = []
        while budget > 0 and (sequence := self._next_prefill(batch)) is not None:
            start = int(self.lanes.computed[sequence.lane])
            if self._is_worth_waiting(sequence.num_tokens - start, budget):
                break
            chunk = PrefillChunk(sequence, sequence.lane, start, min(sequence.num_tokens, start + budget))
            batch.chunks.append(chunk)
            budget -= chunk.stop - start
            self._publish(chunk)
            if chunk.is_last:
                self._prefilling.popleft()
                finished.append(chunk.lane)
        if finished:
            self._decoding = np.concatenate([self._decoding, np.asarray(finished, dtype=np.int32)])

    def _is_worth_waiting(self, num_tokens: int, budget: int) -> bool:
        """Whether the rest of a prompt is better computed whole, in the next step.

        Some kernels attend whole prompts faster, without reading the cache back; then one is cut only when the step
        would be half empty.
        """
        return self.full_step is None and num_tokens > budget and 2 * budget < self.token_budget

    def _next_prefill(self, batch: Batch) -> Sequence | None:
        if not self._prefilling:
            sequence = self._try_admit()
            if sequence is None:
                return None
            batch.admitted.append(sequence)
            self._prefilling.append(sequence)
        return self._prefilling[0]

    def _try_admit(self) -> Sequence | None:
        """Move the first waiting sequence to a lane with all blocks of its known tokens, if there is room."""
        # A budget that shrank below the number of lanes bounds how many may decode at once.
        if not self.waiting or not self.lanes.num_free or len(self.running) >= self.token_budget:
            return None
        sequence = self.waiting.first
        cached = self._cached_blocks(sequence)
        count = self.pool.blocks_for(sequence.num_tokens) - len(cached)
        if count + self.pool.num_unheld(cached) + self._reserve() > self.pool.num_free:
            return None
        self.waiting.pop_first()
        self.pool.hold(cached)
        sequence.blocks = cached + (self.pool.try_allocate(count) or [])
        self._start(sequence, len(cached) * self.pool.block_size)
        return sequence

    def _reserve(self) -> int:
        """Blocks kept for the sequences that already run, so that an admission does not preempt at once."""
        return min(len(self.running), self.pool.num_blocks // 50 + 1)

    def _cached_blocks(self, sequence: Sequence) -> list[int]:
        if not self.prefix_cache:
            return []
        if sequence.keys is None:
            sequence.keys = chain_block_keys(sequence.tokens, self.pool.block_size, sequence.adapter)
        # The last token is always computed: its logits are what the prefill is for.
        return self.pool.match(sequence.keys[: (sequence.num_tokens - 1) // self.pool.block_size])

    def _start(self, sequence: Sequence, num_cached: int) -> None:
        params = sequence.request.params
        limit = min(sequence.num_prompt_tokens + params.max_new_tokens, self.max_model_len)
        lane = self.lanes.acquire(sequence, limit)
        self.lanes.computed[lane] = num_cached
        self.lanes.num_blocks[lane] = len(sequence.blocks)
        self.lanes.last_block[lane] = sequence.blocks[-1]
        self.running[lane] = sequence
        self.num_cached_tokens += num_cached
        if self.groups is not None:
            self.groups.admit(sequence)

    def _publish(self, chunk: PrefillChunk) -> None:
        """Count a chunk as computed; its full blocks can be shared from now on, also within this very step."""
        self.lanes.computed[chunk.lane] = chunk.stop
        keys = chunk.sequence.keys
        if keys is None:
            return
        size = self.pool.block_size
        for index in range(chunk.start // size, chunk.stop // size):
            self.pool.publish(chunk.sequence.blocks[index], keys[index])

    def preempt(self, sequence: Sequence) -> None:
        """Take lane and blocks away; the sequence waits, first in the queue, to be recomputed."""
        outputs = self.lanes.outputs_of(sequence.lane)
        self.release(sequence)
        sequence.resume_from(outputs)
        self.waiting.put_back(sequence)
        self.num_preemptions += 1

    def preempt_all(self) -> None:
        """Preempt everything, in an order that keeps the oldest first, and distrust the prefix cache."""
        for sequence in reversed(list(self.running.values())):
            self.preempt(sequence)
        self.pool.forget_all()

    def release(self, sequence: Sequence) -> None:
        """Give back lane and blocks of a running sequence. Steps in flight may still write to them: they come first."""
        lane = sequence.lane
        del self.running[lane]
        self._decoding = self._decoding[self._decoding != lane]
        if self._prefilling and self._prefilling[0] is sequence:
            self._prefilling.popleft()
        self.pool.release(sequence.blocks)
        sequence.blocks = []
        self.lanes.release(lane)
        sequence.lane = -1

    def forget(self, sequences: Collection[Sequence]) -> None:
        """Drop sequences that hold no lane."""
        self.waiting.forget(sequences)
        gone = {id(sequence) for sequence in sequences}
        self.failed = [entry for entry in self.failed if id(entry[0]) not in gone]

    def check_integrity(self) -> None:
        """Raise RuntimeError when blocks, lanes and sequences do not add up."""
        self.pool.check_integrity(sequence.blocks for sequence in self.running.values())
        if len(self.running) + self.lanes.num_free != self.lanes.num_lanes:
            raise RuntimeError(f"running {len(self.running)} + free {self.lanes.num_free} != {self.lanes.num_lanes}")
