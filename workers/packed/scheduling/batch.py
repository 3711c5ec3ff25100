"""What one step computes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from parquetry.workers.packed.scheduling.sequence import Sequence
from parquetry.workers.packed.scheduling.sharing import SharedPrefix


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
