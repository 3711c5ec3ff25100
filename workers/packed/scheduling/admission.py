"""Who may begin: the sequences that wait, and the lane and blocks that the first of them gets."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import islice

from parquetry.workers.packed.scheduling.blocks import BlockPool
from parquetry.workers.packed.scheduling.lanes import LaneTable
from parquetry.workers.packed.scheduling.prefix import chain_block_keys
from parquetry.workers.packed.scheduling.sequence import Sequence
from parquetry.workers.packed.scheduling.sharing import PrefixGroups
from parquetry.workers.packed.scheduling.waiting import WaitingQueue


class Admission:
    """Gives sequences their lanes, with all blocks of their known tokens, and what the prefix cache has of these."""

    def __init__(
        self,
        pool: BlockPool,
        lanes: LaneTable,
        *,
        max_model_len: int,
        prefix_cache: bool = True,
        prefix_groups: PrefixGroups | None = None,
        rope_switch: int | None = None,
        waiting: WaitingQueue | None = None,
    ) -> None:
        """`prefix_groups` are told of every sequence that begins. `waiting` None: a queue sorted by prefixes."""
        self.pool = pool
        self.lane_table = lanes
        self.max_model_len = max_model_len
        self.prefix_cache = prefix_cache
        self.prefix_groups = prefix_groups
        self.rope_switch = rope_switch
        self.num_cached_tokens = 0
        self._waiting = WaitingQueue(grouped=prefix_cache) if waiting is None else waiting

    def __len__(self) -> int:
        """Sequences that wait."""
        return len(self._waiting)

    def __iter__(self) -> Iterator[Sequence]:
        """Those that wait, the next one first."""
        return iter(self._waiting)

    def add(self, sequence: Sequence) -> str | None:
        """Queue a sequence; why it can never run, and is not queued, or None."""
        reason = self._misfit(sequence)
        sequence.is_long = self.rope_switch is not None and sequence.num_tokens > self.rope_switch
        if reason is None:
            self._waiting.append(sequence)
        return reason

    def put_back(self, sequence: Sequence) -> None:
        """Queue a preempted sequence before all others."""
        self._waiting.put_back(sequence)

    def forget(self, sequences: Collection[Sequence]) -> None:
        """Drop these wherever they wait."""
        self._waiting.forget(sequences)

    def _misfit(self, sequence: Sequence) -> str | None:
        """Why the sequence can never run, or None."""
        num_tokens = sequence.num_prompt_tokens
        if num_tokens == 0:
            return "the prompt is empty"
        if num_tokens >= self.max_model_len:
            return f"the prompt has {num_tokens} tokens; prompt and output together may have {self.max_model_len}"
        capacity = self.pool.num_blocks * self.pool.block_size
        if num_tokens > capacity:
            return f"the prompt has {num_tokens} tokens; the KV cache holds {capacity}"
        return None

    def count_ready(self, limit: int) -> int:
        """About how many tokens the sequences have to compute that could begin now; stops counting at `limit`."""
        count = blocks = 0
        for sequence in islice(self._waiting, self.lane_table.num_free):
            cached = len(self._cached_blocks(sequence))
            blocks += self.pool.blocks_for(sequence.num_tokens) - cached
            if count >= limit or blocks > self.pool.num_free:
                break
            count += sequence.num_tokens - cached * self.pool.block_size
        return count

    def try_admit(self, num_running: int) -> Sequence | None:
        """Move the first waiting sequence to a lane, if there is room beside the `num_running` ones."""
        if not self._waiting or not self.lane_table.num_free:
            return None
        sequence = self._waiting.first
        cached = self._cached_blocks(sequence)
        count = self.pool.blocks_for(sequence.num_tokens) - len(cached)
        if count + self.pool.num_unheld(cached) + self._reserve(num_running) > self.pool.num_free:
            return None
        self._waiting.pop_first()
        self.pool.hold(cached)
        sequence.blocks = cached + (self.pool.try_allocate(count) or [])
        self._start(sequence, len(cached) * self.pool.block_size)
        return sequence

    def _reserve(self, num_running: int) -> int:
        """Blocks kept for the sequences that already run, so that an admission does not preempt at once."""
        return min(num_running, self.pool.num_blocks // 50 + 1)

    def _cached_blocks(self, sequence: Sequence) -> list[int]:
        if not self.prefix_cache:
            return []
        if sequence.keys is None:
            sequence.keys = chain_block_keys(sequence.tokens, self.pool.block_size, sequence.kind)
        # The last token is always computed: its logits are what the prefill is for.
        return self.pool.match(sequence.keys[: (sequence.num_tokens - 1) // self.pool.block_size])

    def _start(self, sequence: Sequence, num_cached: int) -> None:
        limit = sequence.num_prompt_tokens + sequence.request.params.max_new_tokens
        self.lane_table.start(sequence, min(limit, self.max_model_len), num_cached)
        self.num_cached_tokens += num_cached
        if self.prefix_groups is not None:
            self.prefix_groups.admit(sequence)
