"""Requests waiting for a batch: refused ones set aside, the others sorted by length inside a window."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from workers.request import EncodeRequest, Encoding

#: tokens and rectangles (num_batches,) of batches to the slots they take; neither grows without the other
Cost = Callable[[np.ndarray, np.ndarray], np.ndarray]
#: rows sorted together; beyond some tens of batches more of them save no padding
WINDOW_ROWS = 32_768
_NOTHING = np.empty(0, np.float32)


def refused(request_id: int, reason: str) -> Encoding:
    """The error result of a request."""
    return Encoding(id=request_id, values=_NOTHING, error=reason)


class EncodeQueue:
    """Forms batches of `budget` slots; `cost(num_tokens, rectangle)`, both arrays, says how many slots batches take.

    Rows are sorted inside a window, and a window is finished before the next is opened, so no row waits for ever.
    Windows are walked in alternating directions: what is left of one begins the next instead of a batch of its own.
    """

    def __init__(self, budget: int, cost: Cost, check: Callable[[EncodeRequest], str | None]) -> None:
        self.budget = budget
        self._cost = cost
        self._check = check
        self._arrived: deque[EncodeRequest] = deque()
        #: sorted, shortest first
        self._window: list[EncodeRequest] = []
        #: (num_rows,) int64, their tokens
        self._lens = np.empty(0, np.int64)
        self._longest_first = False
        self._refused: list[Encoding] = []

    def __len__(self) -> int:
        return self.num_waiting + len(self._refused)

    @property
    def num_waiting(self) -> int:
        """Requests that a batch can be made of."""
        return len(self._arrived) + len(self._window)

    def add(self, requests: Sequence[EncodeRequest]) -> None:
        """Take requests; one that the model cannot serve becomes an error result."""
        for request in requests:
            reason = self._check(request)
            if reason is None:
                self._arrived.append(request)
            else:
                self.refuse({request.id: reason})

    def refuse(self, reasons: Mapping[int, str]) -> None:
        """Give these requests, which are in no batch, error results."""
        self._refused += [refused(request_id, reason) for request_id, reason in reasons.items()]

    def put_back(self, requests: Sequence[EncodeRequest]) -> None:
        """Return a batch that could not be computed."""
        self._set_window([*self._window, *requests])

    def cancel(self, ids: Collection[int]) -> None:
        """Forget these requests."""
        gone = set(ids)
        self._arrived = deque(r for r in self._arrived if r.id not in gone)
        self._set_window([r for r in self._window if r.id not in gone])
        self._refused = [r for r in self._refused if r.id not in gone]

    def take_refused(self) -> list[Encoding]:
        """Error results since the last call."""
        taken, self._refused = self._refused, []
        return taken

    def take_batch(self) -> list[EncodeRequest]:
        """Rows of similar length that fit the budget, longest first; at least one when any waits."""
        if self._arrived and self._lens.sum() < self.budget:
            self._open_window()
        count = self._num_fitting()
        taken = slice(len(self._window) - count, None) if self._longest_first else slice(count)
        batch = self._window[taken][::-1]
        del self._window[taken]
        self._lens = np.delete(self._lens, taken)
        return batch

    def _open_window(self) -> None:
        count = min(len(self._arrived), WINDOW_ROWS)
        arrived = [self._arrived.popleft() for _ in range(count)]
        self._set_window([*self._window, *arrived])
        self._longest_first = not self._longest_first

    def _set_window(self, requests: list[EncodeRequest]) -> None:
        lens = np.fromiter((len(request.token_ids) for request in requests), np.int64, len(requests))
        order = np.argsort(lens, kind="stable")
        self._window, self._lens = [requests[place] for place in order.tolist()], lens[order]

    def _num_fitting(self) -> int:
        """How many rows of the end that is taken from fit the budget; at least one of any."""
        # no row has less than one token, so no more than this many fit
        limit = self.budget + 1
        lens = self._lens[: -limit - 1 : -1] if self._longest_first else self._lens[:limit]
        if not len(lens):
            return 0
        rectangles = np.maximum.accumulate(lens) * np.arange(1, len(lens) + 1)
        fits = self._cost(np.cumsum(lens), rectangles) <= self.budget
        return len(lens) if fits.all() else max(1, int(fits.argmin()))


def packed_cost(totals: np.ndarray, rectangles: np.ndarray) -> np.ndarray:
    """Slots of packed batches: their tokens."""
    return totals


def padded_cost(totals: np.ndarray, rectangles: np.ndarray) -> np.ndarray:
    """Slots of padded batches: the rectangles around their rows."""
    return rectangles
