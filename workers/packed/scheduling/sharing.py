"""Which running sequences begin with the same blocks, so that a decode step can read these once for all of them."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Many
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from parquetry.workers.packed.scheduling.sequence import Sequence

#: sequences that make a group; fewer read their blocks themselves
MIN_ROWS = 8
#: sequences of one group that a kernel program serves, and so of one tile
TILE_ROWS = 32
#: tokens that must not be read again for the sharing to pay for its two kernels more a layer
MIN_SAVED_TOKENS = 16_384
#: steps between two looks for new groups; the longer the less was found
FIRST_REST, LONGEST_REST = 16, 1024


@dataclass(frozen=True)
class SharedPrefix:
    """How the decodes of a step share their beginnings; every array is int32."""

    #: (num_decodes,) tokens each decode shares with its group, 0 for those that share nothing
    lens: np.ndarray
    #: (num_tiles,) first decode of each tile, and how many follow it, all of one group
    starts: np.ndarray
    counts: np.ndarray


class PrefixGroups:
    """Groups of lanes, each known by the last block that its members have in common.

    Sequences hold the same block only when the prefix cache gave it to them, and it gives a block for all the tokens up
    to its end: who holds a block at some place holds equal tokens before it.
    """

    def __init__(self, num_lanes: int, block_size: int) -> None:
        self.block_size = block_size
        #: (num_lanes,) tokens shared, and the last block shared
        self.tokens = np.zeros(num_lanes, dtype=np.int32)
        self.last_block = np.full(num_lanes, -1, dtype=np.int32)
        #: last block shared -> blocks shared
        self._known: dict[int, int] = {}
        self._num_alone = self._age = 0
        self._rest = FIRST_REST

    def admit(self, sequence: Sequence) -> None:
        """Put a sequence that just got its lane and blocks into a group that is known, if there is one."""
        blocks = sequence.blocks
        for count in set(self._known.values()):
            if len(blocks) > count and self._known.get(blocks[count - 1]) == count:
                self._put(sequence.lane, blocks[count - 1], count)
                return
        self._put(sequence.lane, -1, 0)
        self._num_alone += 1

    def _put(self, lane: int, last_block: int, count: int) -> None:
        self.last_block[lane], self.tokens[lane] = last_block, count * self.block_size

    def look(self, running: Iterable[Sequence]) -> None:
        """Called once a step: look for groups anew when enough sequences came that belong to none."""
        self._age += 1
        if self._age < self._rest or self._num_alone < MIN_ROWS:
            return
        found = find_groups(list(running), least=-(-64 // self.block_size))
        self._rest = FIRST_REST if found else min(2 * self._rest, LONGEST_REST)
        self._age = self._num_alone = 0
        self._known = {members[0].blocks[count - 1]: count for members, count in found}
        for members, count in found:
            for sequence in members:
                self._put(sequence.lane, sequence.blocks[count - 1], count)

    def arrange(self, lanes: np.ndarray) -> tuple[np.ndarray, SharedPrefix | None]:
        """The decoding `lanes` (num_decodes,) with the members of each group side by side, and what they share.

        Otherwise they keep their order; None when too little is shared.
        """
        if not self._known:
            return lanes, None
        blocks, positions, sizes = np.unique(self.last_block[lanes], return_inverse=True, return_counts=True)
        is_group = (blocks >= 0) & (sizes >= MIN_ROWS)
        shared = np.where(is_group[positions], self.tokens[lanes], 0)
        if int(shared.sum()) < MIN_SAVED_TOKENS:
            return lanes, None
        # groups first, one after the other
        order = np.argsort(np.where(is_group, np.arange(len(blocks)), len(blocks))[positions], kind="stable")
        tiles = tiles_of(sizes[is_group])
        return lanes[order], SharedPrefix(shared[order].astype(np.int32), *tiles)


def tiles_of(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First row and number of rows of every tile, for groups of `sizes` that lie one after the other from row 0."""
    starts = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])
    firsts = [np.arange(start, stop, TILE_ROWS) for start, stop in pairwise(starts.tolist())]
    counts = [np.minimum(TILE_ROWS, stop - first) for first, stop in zip(firsts, starts[1:].tolist(), strict=True)]
    return np.concatenate(firsts).astype(np.int32), np.concatenate(counts).astype(np.int32)


def find_groups(sequences: list[Sequence], *, least: int) -> list[tuple[list[Sequence], int]]:
    """Disjoint groups of at least MIN_ROWS sequences, each with the number of first blocks (>= least) they share.

    Of groups within groups those are taken that save more reading: many rows with a short instruction in common, or
    several documents behind it with many rows each.
    """
    ordered = sorted(sequences, key=lambda sequence: sequence.blocks)
    common = [num_common(a.blocks, b.blocks) for a, b in pairwise(ordered)]
    return _best(ordered, common, least)[1]


def _best(sequences: list[Sequence], common: Many[int], least: int) -> tuple[int, list[tuple[list[Sequence], int]]]:
    """Blocks saved, and the groups that save them, among sequences whose neighbours have `common` blocks in common."""
    if len(sequences) < MIN_ROWS:
        return 0, []
    shortest = min(common)
    whole = (len(sequences) - 1) * shortest if shortest >= least else 0
    groups: list[tuple[list[Sequence], int]] = []
    saved = start = 0
    cuts = [index + 1 for index, count in enumerate(common) if count == shortest]
    for stop in [*cuts, len(sequences)]:
        found_saved, found = _best(sequences[start:stop], common[start : stop - 1], least)
        saved, groups, start = saved + found_saved, groups + found, stop
    return (whole, [(sequences, shortest)]) if whole > saved else (saved, groups)


def num_common(a: Many[int], b: Many[int]) -> int:
    """How many first items are equal."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
