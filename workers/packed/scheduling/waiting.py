"""The queue in front of the scheduler: first come, first served, except that neighbours with one prefix go together."""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Collection, Iterator

import numpy as np

from parquetry.workers.packed.scheduling.sequence import Sequence

#: sequences that may be put in an order of their own; nobody is overtaken by more, and shards keep flowing
WINDOW = 2048
#: tokens of a prompt that its place among the others depends on
MAX_KEY_TOKENS = 1024

Entry = tuple[bytes, int, Sequence]


class WaitingQueue:
    """Sequences without a lane.

    With `grouped`, each window of the queue is kept in lexicographic order of the prompts, which puts prompts next to
    each other that begin alike, for prefixes of every length at once: their blocks are asked for while the cache still
    has them, however many prefixes a job has. Equal prompts keep their order.
    """

    def __init__(self, *, grouped: bool, window: int = WINDOW) -> None:
        self._grouped, self._window = grouped, window
        self._number = 0
        #: preempted ones, first to go
        self._front: deque[Sequence] = deque()
        self._windows: deque[list[Entry]] = deque()
        #: entries of the first window that have gone, and those of the last one that ever came
        self._gone = self._come = 0

    def __len__(self) -> int:
        return len(self._front) + sum(map(len, self._windows)) - self._gone

    def __iter__(self) -> Iterator[Sequence]:
        yield from self._front
        for index, window in enumerate(self._windows):
            yield from (sequence for _, _, sequence in window[self._gone if index == 0 else 0 :])

    def append(self, sequence: Sequence) -> None:
        """Take a new sequence."""
        if not self._windows or self._come == self._window:
            self._windows.append([])
            self._come = 0
        key = prefix_key(sequence) if self._grouped else b""
        last = self._windows[-1]
        insort(last, (key, self._number, sequence), lo=self._gone if len(self._windows) == 1 else 0)
        self._number += 1
        self._come += 1

    def put_back(self, sequence: Sequence) -> None:
        """Take a preempted sequence, which goes before all others."""
        self._front.appendleft(sequence)

    @property
    def first(self) -> Sequence:
        """Who goes next. IndexError when nobody waits."""
        return self._front[0] if self._front else self._windows[0][self._gone][2]

    def pop_first(self) -> Sequence:
        """Remove and return `first`."""
        if self._front:
            return self._front.popleft()
        sequence = self.first
        self._gone += 1
        if self._gone == len(self._windows[0]):
            self._windows.popleft()
            self._gone = 0
        return sequence

    def forget(self, sequences: Collection[Sequence]) -> None:
        """Drop these wherever they are; the others keep their order."""
        gone = set(map(id, sequences))
        kept = [window[self._gone if index == 0 else 0 :] for index, window in enumerate(self._windows)]
        kept = [[entry for entry in window if id(entry[2]) not in gone] for window in kept]
        self._front = deque(sequence for sequence in self._front if id(sequence) not in gone)
        self._windows, self._gone = deque(filter(None, kept)), 0
        if not self._windows:
            self._come = 0


def prefix_key(sequence: Sequence) -> bytes:
    """Bytes that compare as the adapter and the kind of row do, and then the first MAX_KEY_TOKENS of the prompt."""
    return np.append(sequence.kind, sequence.tokens[:MAX_KEY_TOKENS]).astype(">u4").tobytes()
