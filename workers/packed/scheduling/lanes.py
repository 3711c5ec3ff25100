"""The lanes: what the host knows of every running sequence, as columns, so that a step costs vectors and no loops."""

from __future__ import annotations

import numpy as np

from parquetry.workers.packed.scheduling.sequence import Sequence


class LaneTable:
    """A running sequence holds one lane in [0, num_lanes); device tables are indexed by the same number.

    Tokens of a lane, by position:

        [0, computed)            their keys and values are in the cache, or will be once the steps in flight are done
        [computed, known)        still to be computed: what is left of a prompt, or the newest token of a decode
        [0, num_prompt)          the prompt
        [num_prompt, known)      outputs; the host has seen `num_outputs` of them, steps in flight bring the rest
        [known, end]             not sampled yet; a decode at `end` is the last one

    Blocks [0, num_blocks) of the lane cover at least [0, computed]. `epoch` counts the sequences that have left the
    lane: a result computed for an older epoch belongs to nobody.
    """

    def __init__(self, num_lanes: int, max_blocks: int) -> None:
        self.num_lanes = num_lanes
        self.max_blocks = max_blocks
        self.computed = np.zeros(num_lanes, dtype=np.int32)
        #: `computed` at which nothing is left to schedule
        self.end = np.zeros(num_lanes, dtype=np.int32)
        self.num_blocks = np.zeros(num_lanes, dtype=np.int32)
        #: block of the token at `computed`, valid while decoding
        self.last_block = np.zeros(num_lanes, dtype=np.int32)
        self.num_outputs = np.zeros(num_lanes, dtype=np.int32)
        self.max_outputs = np.zeros(num_lanes, dtype=np.int32)
        self.epoch = np.zeros(num_lanes, dtype=np.int64)
        self.request_id = np.zeros(num_lanes, dtype=np.int64)
        #: lanes whose stops need a look at each token in Python
        self.watched = np.zeros(num_lanes, dtype=bool)
        #: what the sampler has to do for the lane
        self.mode = np.zeros(num_lanes, dtype=np.int64)
        self.outputs = np.zeros((num_lanes, 256), dtype=np.int32)
        self.logprobs = np.zeros((num_lanes, 256), dtype=np.float32)
        self.sequences: list[Sequence | None] = [None] * num_lanes
        self._free = list(range(num_lanes - 1, -1, -1))

    @property
    def num_free(self) -> int:
        return len(self._free)

    def acquire(self, sequence: Sequence, max_tokens: int) -> int:
        """Give a lane to `sequence`, whose prompt and output together may reach `max_tokens` tokens."""
        lane = self._free.pop()
        sequence.lane = lane
        self.sequences[lane] = sequence
        request = sequence.request
        self.request_id[lane] = request.id
        self.end[lane] = max_tokens - 1
        self.max_outputs[lane] = max_tokens - sequence.num_prompt_tokens
        self.watched[lane] = bool(request.params.stop or request.params.stop_ids or request.params.grammar)
        self._restore(lane, sequence.tokens[sequence.num_prompt_tokens :])
        return lane

    def start(self, sequence: Sequence, max_tokens: int, num_cached: int) -> None:
        """Give a lane to `sequence`, which holds its blocks, the first `num_cached` tokens of them computed."""
        lane = self.acquire(sequence, max_tokens)
        self.computed[lane] = num_cached
        self.num_blocks[lane] = len(sequence.blocks)
        self.last_block[lane] = sequence.blocks[-1]

    def unfinished(self, lanes: np.ndarray) -> np.ndarray:
        """Those of `lanes` that have a token left to schedule."""
        return lanes[self.computed[lanes] < self.end[lanes]]

    def without_room(self, lanes: np.ndarray, block_size: int) -> np.ndarray:
        """Those of `lanes` whose next token needs another block."""
        return lanes[self.computed[lanes] == self.num_blocks[lanes] * block_size]

    def is_known(self, lane: int) -> bool:
        """Whether the host has seen every token of a decoding lane, the one that it computes next included."""
        sequence = self.sequences[lane]
        assert sequence is not None
        return sequence.num_prompt_tokens + int(self.num_outputs[lane]) == int(self.computed[lane]) + 1

    def longest_first(self, lanes: np.ndarray) -> np.ndarray:
        """The same lanes, those with the most computed tokens first."""
        return lanes[np.argsort(-self.computed[lanes], kind="stable")]

    def extend(self, lane: int, block: int) -> None:
        """Note one more block of a lane."""
        self.num_blocks[lane] += 1
        self.last_block[lane] = block

    def advance(self, lanes: np.ndarray) -> None:
        """Each of `lanes` computes one token."""
        self.computed[lanes] += 1

    def _restore(self, lane: int, outputs: np.ndarray) -> None:
        self._widen(len(outputs))
        self.num_outputs[lane] = len(outputs)
        self.outputs[lane, : len(outputs)] = outputs

    def release(self, lane: int) -> None:
        self.sequences[lane] = None
        self.epoch[lane] += 1
        self._free.append(lane)

    def append(self, lanes: np.ndarray, tokens: np.ndarray, logprobs: np.ndarray | None) -> None:
        """Store one sampled token per lane; every array is (num_sampled,)."""
        index = self.num_outputs[lanes]
        self._widen(int(index.max(initial=0)) + 1)
        self.outputs[lanes, index] = tokens
        if logprobs is not None:
            self.logprobs[lanes, index] = logprobs
        self.num_outputs[lanes] = index + 1

    def outputs_of(self, lane: int) -> np.ndarray:
        """A copy of the lane's outputs (num_outputs,) int32."""
        return self.outputs[lane, : self.num_outputs[lane]].copy()

    def _widen(self, width: int) -> None:
        have = self.outputs.shape[1]
        if width > have:
            extra = ((0, 0), (0, max(width - have, have)))
            self.outputs = np.pad(self.outputs, extra)
            self.logprobs = np.pad(self.logprobs, extra)
