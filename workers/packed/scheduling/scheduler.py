"""Decides what the next step computes: every decode, then prefill chunks until the token budget is spent."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

import numpy as np

from parquetry.workers.packed.scheduling.admission import Admission
from parquetry.workers.packed.scheduling.batch import Batch, PrefillChunk
from parquetry.workers.packed.scheduling.blocks import BlockPool
from parquetry.workers.packed.scheduling.lanes import LaneTable
from parquetry.workers.packed.scheduling.sequence import Sequence
from parquetry.workers.packed.scheduling.sharing import PrefixGroups, SharedPrefix


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
        prefix_groups: PrefixGroups | None = None,
        rope_switch: int | None = None,
    ) -> None:
        """Steps of more than `full_step` tokens are cut to multiples of it; None keeps prompts whole instead.

        `prefix_groups` are kept for an engine that can read a shared prefix once. Beyond `rope_switch` tokens a row has
        other rotary frequencies, so that all of it is computed anew when it gets there.
        """
        self.pool = pool
        self.lane_table = lanes
        self.token_budget = token_budget
        self.full_step = full_step
        self.prefix_groups = prefix_groups
        self.rope_switch = rope_switch
        self.admission = Admission(
            pool,
            lanes,
            max_model_len=max_model_len,
            prefix_cache=prefix_cache,
            prefix_groups=prefix_groups,
            rope_switch=rope_switch,
        )
        #: lane -> sequence, oldest admission first
        self.running: dict[int, Sequence] = {}
        self.failed: list[tuple[Sequence, str]] = []
        self.num_preemptions = 0
        self._prefilling: deque[Sequence] = deque()
        self._decoding = np.empty(0, dtype=np.int32)

    @property
    def num_unfinished(self) -> int:
        return len(self.admission) + len(self.running) + len(self.failed)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence; one that can never fit goes to `failed` at once."""
        reason = self.admission.add(sequence)
        if reason is not None:
            self.failed.append((sequence, reason))

    def schedule(self) -> Batch | None:
        """The next step, or None when nothing can be computed now."""
        lanes = self.lane_table
        # Longest context first: attention programs start in this order, so the last ones to end are short.
        decodes = self._grow(self._short_enough(lanes.unfinished(self._decoding)))
        decodes, shared = self._arrange(lanes.longest_first(decodes))
        batch = Batch(decodes, lanes.computed[decodes], lanes.last_block[decodes], [], shared=shared)
        lanes.advance(decodes)
        self._fill(batch, self._num_wanted(len(decodes)) - len(decodes))
        return batch if len(decodes) or batch.chunks else None

    def _short_enough(self, decodes: np.ndarray) -> np.ndarray:
        """The decodes whose next token does not make a short row a long one.

        The others wait until the host knows all of their tokens, and start again as long rows.
        """
        if self.rope_switch is None:
            return decodes
        crossing = [
            lane
            for lane in decodes[self.lane_table.computed[decodes] == self.rope_switch].tolist()
            if not self.running[lane].is_long
        ]
        for lane in filter(self.lane_table.is_known, crossing):
            sequence = self.running[lane]
            self.preempt(sequence)
            sequence.is_long = True
        return decodes[~np.isin(decodes, crossing)] if crossing else decodes

    def _arrange(self, decodes: np.ndarray) -> tuple[np.ndarray, SharedPrefix | None]:
        if self.prefix_groups is None:
            return decodes, None
        self.prefix_groups.look(self.running.values())
        return self.prefix_groups.arrange(decodes)

    def _grow(self, decodes: np.ndarray) -> np.ndarray:
        """Give a block to each decode whose last one is full; returns the decodes that are still running."""
        gone: list[int] = []
        for lane in self.lane_table.without_room(decodes, self.pool.block_size).tolist():
            while lane not in gone and not self._try_extend(lane):
                gone.append(self._make_room())
        return decodes[~np.isin(decodes, gone)] if gone else decodes

    def _try_extend(self, lane: int) -> bool:
        blocks = self.pool.try_allocate(1)
        if blocks is None:
            return False
        self.running[lane].blocks += blocks
        self.lane_table.extend(lane, blocks[0])
        return True

    def _make_room(self) -> int:
        """Preempt the youngest sequence; the only one left has the whole cache and still no room, so it fails.

        Returns the lane that it left.
        """
        lane, youngest = next(reversed(self.running.items()))
        if len(self.running) > 1:
            self.preempt(youngest)
            return lane
        num_tokens = int(self.lane_table.computed[lane]) + 1
        capacity = self.pool.num_blocks * self.pool.block_size
        self.release(youngest)
        self.failed.append((youngest, f"the sequence reached {num_tokens} tokens; the KV cache holds {capacity}"))
        return lane

    def _num_wanted(self, num_decodes: int) -> int:
        """Most tokens of this step: the budget, or what there is, cut to a multiple of `full_step`."""
        if self.full_step is None:
            return self.token_budget
        begun = sum(sequence.num_tokens - int(self.lane_table.computed[sequence.lane]) for sequence in self._prefilling)
        known = num_decodes + begun
        ready = min(self.token_budget, known + self.admission.count_ready(self.token_budget - known))
        cut = ready // self.full_step * self.full_step
        return cut if cut > num_decodes else self.token_budget

    def _fill(self, batch: Batch, budget: int) -> None:
        finished: list[int] = []
        while budget > 0 and (sequence := self._next_prefill(batch)) is not None:
            start = int(self.lane_table.computed[sequence.lane])
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
            # A budget that shrank below the number of lanes bounds how many may decode at once.
            has_room = len(self.running) < self.token_budget
            sequence = self.admission.try_admit(len(self.running)) if has_room else None
            if sequence is None:
                return None
            self.running[sequence.lane] = sequence
            batch.admitted.append(sequence)
            self._prefilling.append(sequence)
        return self._prefilling[0]

    def _publish(self, chunk: PrefillChunk) -> None:
        """Count a chunk as computed; its full blocks can be shared from now on, also within this very step."""
        self.lane_table.computed[chunk.lane] = chunk.stop
        keys = chunk.sequence.keys
        if keys is None:
            return
        size = self.pool.block_size
        for index in range(chunk.start // size, chunk.stop // size):
            self.pool.publish(chunk.sequence.blocks[index], keys[index])

    def preempt(self, sequence: Sequence) -> None:
        """Take lane and blocks away; the sequence waits, first in the queue, to be recomputed."""
        outputs = self.lane_table.outputs_of(sequence.lane)
        self.release(sequence)
        sequence.resume_from(outputs)
        self.admission.put_back(sequence)
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
        self.lane_table.release(lane)
        sequence.lane = -1

    def forget(self, sequences: Collection[Sequence]) -> None:
        """Drop sequences that hold no lane."""
        self.admission.forget(sequences)
        gone = {id(sequence) for sequence in sequences}
        self.failed = [entry for entry in self.failed if id(entry[0]) not in gone]

    def check_integrity(self) -> None:
        """Raise RuntimeError when blocks, lanes and sequences do not add up."""
        self.pool.check_integrity(sequence.blocks for sequence in self.running.values())
        if len(self.running) + self.lane_table.num_free != self.lane_table.num_lanes:
            raise RuntimeError(
                f"running {len(self.running)} + free {self.lane_table.num_free} != {self.lane_table.num_lanes}"
            )
