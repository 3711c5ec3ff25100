"""Tokens on their way out: which sequences they end, and what comes of these."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from parquetry.workers.packed.scheduling.lanes import LaneTable
from parquetry.workers.packed.scheduling.sequence import Sequence
from parquetry.workers.request import Completion


class Ending(NamedTuple):
    """A sequence that is done, and why.

    `is_stopped`: its last token is an end-of-sequence or stop id, which is not part of the output. `is_matched`: its
    last token, which is part of the output, completes a stop string or what a grammar asks for. Neither: it reached
    its limit.
    """

    sequence: Sequence
    is_stopped: bool
    is_matched: bool


class Outputs:
    """Keeps the tokens of every lane and sees where they end."""

    def __init__(self, lanes: LaneTable, eos_ids: np.ndarray) -> None:
        self.lane_table = lanes
        self._eos_ids = eos_ids

    def append(self, lanes: np.ndarray, tokens: np.ndarray, logprobs: np.ndarray | None) -> list[Ending]:
        """Store one token for each of `lanes` (num_sampled,); returns the sequences that end with it."""
        self.lane_table.append(lanes, tokens, logprobs)
        stopped = self._stopped(lanes, tokens)
        matched = self._matched(lanes, tokens, stopped)
        at_limit = self.lane_table.num_outputs[lanes] >= self.lane_table.max_outputs[lanes]
        return [
            Ending(self._sequence_at(lanes[index]), bool(stopped[index]), bool(matched[index]))
            for index in np.flatnonzero(stopped | matched | at_limit).tolist()
        ]

    def _stopped(self, lanes: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """(num_sampled,) bool: the token ends the sequence and is not part of the output."""
        stopped = np.isin(tokens, self._eos_ids)
        for index in np.flatnonzero(self.lane_table.watched[lanes]).tolist():
            stop_ids = self._sequence_at(lanes[index]).request.params.stop_ids
            stopped[index] |= int(tokens[index]) in stop_ids
        return stopped

    def _matched(self, lanes: np.ndarray, tokens: np.ndarray, stopped: np.ndarray) -> np.ndarray:
        """(num_sampled,) bool: the token completes the output and is part of it."""
        matched = np.zeros(len(lanes), dtype=bool)
        for index in np.flatnonzero(self.lane_table.watched[lanes] & ~stopped).tolist():
            matched[index] = self._sequence_at(lanes[index]).completed_by(int(tokens[index]))
        return matched

    def _sequence_at(self, lane: int) -> Sequence:
        sequence = self.lane_table.sequences[lane]
        assert sequence is not None
        return sequence

    def completion(self, ending: Ending) -> Completion:
        """What is returned for a sequence that still has its lane."""
        sequence, lane = ending.sequence, ending.sequence.lane
        if sequence.problem is not None:
            return sequence.fail(sequence.problem)
        length = self.length(ending)
        wants_logprobs = sequence.request.params.logprobs
        return Completion(
            id=sequence.request.id,
            output_ids=self.lane_table.outputs[lane, :length].copy(),
            finish_reason="stop" if ending.is_stopped or ending.is_matched else "length",
            logprobs=self.lane_table.logprobs[lane, :length].copy() if wants_logprobs else None,
        )

    def length(self, ending: Ending) -> int:
        """Tokens of its output."""
        return int(self.lane_table.num_outputs[ending.sequence.lane]) - ending.is_stopped
