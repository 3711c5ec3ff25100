"""Requests waiting for a batch: refused ones set aside, the others sorted by length inside a sorting window."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from parquetry.workers.request import EncodeRequest, Encoding

#: tokens and rectangles (num_batches,) of batches to their tokens, padding included; neither grows without the other
Cost = Callable[[np.ndarray, np.ndarray], np.ndarray]
Rows = Literal["any", "equal lengths", "none"]
_NOTHING = np.empty(0, np.float32)


def refused(request_id: int, reason: str) -> Encoding:
    """The error result of a request."""
    return Encoding(id=request_id, values=_NOTHING, error=reason)


def packed_cost(totals: np.ndarray, rectangles: np.ndarray) -> np.ndarray:
    """Tokens of packed batches: their rows' own."""
    return totals


def padded_cost(totals: np.ndarray, rectangles: np.ndarray) -> np.ndarray:
    """Tokens of padded batches, padding included: the rectangles around their rows."""
    return rectangles


@dataclass(frozen=True)
class BatchForm:
    """How rows share a batch."""

    cost: Cost
    #: batches whose rows are sorted together. A client's first rows may be in its last batch, so a sorting window
    #: should be a small part of what clients hand over ahead.
    sorting_window: int
    #: which rows may share one: any, those of equal length, or none
    rows: Rows = "any"


#: sorted only so that kernels find rows of a kind
PACKED = BatchForm(packed_cost, 4)
#: texts of mixed lengths are padded by 2.5% in sorting windows of 64 batches, 5% of 32, 8% of 16
PADDED = BatchForm(padded_cost, 64)


class EncodeQueue:
    """Forms batches of `budget` tokens, padding included.

    Rows are sorted inside a sorting window, and one is finished before the next is opened, so no row waits for ever.
    They are walked in alternating directions: what is left of one begins the next instead of a batch of its own.
    """

    def __init__(self, budget: int, form: BatchForm, check: Callable[[EncodeRequest], str | None]) -> None:
        self.budget = budget
        self._form = form
        self._check = check
        self._arrived: deque[EncodeRequest] = deque()
        self._num_arrived_tokens = 0
        #: sorted, shortest first
        self._sorted: list[EncodeRequest] = []
        #: (num_rows,) int64, their tokens
        self._lens = np.empty(0, np.int64)
        self._longest_first = False
        self._refused: list[Encoding] = []

    def share(self, rows: Rows) -> None:
        """From now on let these rows share a batch and no others."""
        self._form = replace(self._form, rows=rows)

    def __len__(self) -> int:
        return self.num_waiting + len(self._refused)

    @property
    def num_waiting(self) -> int:
        """Requests that a batch can be made of."""
        return len(self._arrived) + len(self._sorted)

    @property
    def is_hungry(self) -> bool:
        """Whether less than a sorting window's rows wait for the next one to be opened."""
        return self._num_arrived_tokens < self._sorting_window_tokens

    @property
    def _sorting_window_tokens(self) -> int:
        return self._form.sorting_window * self.budget

    def add(self, requests: Sequence[EncodeRequest]) -> None:
        """Take requests; one that the model cannot serve becomes an error result."""
        for request in requests:
            reason = self._check(request)
            if reason is None:
                self._arrived.append(request)
                self._num_arrived_tokens += len(request.token_ids)
            else:
                self.refuse({request.id: reason})

    def refuse(self, reasons: Mapping[int, str]) -> None:
        """Give these requests, which are in no batch, error results."""
        self._refused += [refused(request_id, reason) for request_id, reason in reasons.items()]

    def put_back(self, requests: Sequence[EncodeRequest]) -> None:
        """Return a batch that could not be computed."""
        self._sort([*self._sorted, *requests])

    def cancel(self, ids: Collection[int]) -> None:
        """Forget these requests."""
        gone = set(ids)
        self._arrived = deque(r for r in self._arrived if r.id not in gone)
        self._num_arrived_tokens = sum(len(r.token_ids) for r in self._arrived)
        self._sort([r for r in self._sorted if r.id not in gone])
        self._refused = [r for r in self._refused if r.id not in gone]

    def take_refused(self) -> list[Encoding]:
        """Error results since the last call."""
        taken, self._refused = self._refused, []
        return taken

    def take_batch(self) -> list[EncodeRequest]:
        """Rows of similar length that fit the budget, longest first; at least one when any waits."""
        if self._arrived and self._lens.sum() < self.budget:
            self._open_sorting_window()
        count = self._num_fitting()
        taken = slice(len(self._sorted) - count, None) if self._longest_first else slice(count)
        batch = self._sorted[taken][::-1]
        del self._sorted[taken]
        self._lens = np.delete(self._lens, taken)
        return batch

    def _open_sorting_window(self) -> None:
        arrived, num_tokens = [], 0
        while self._arrived and num_tokens < self._sorting_window_tokens:
            arrived.append(self._arrived.popleft())
            num_tokens += len(arrived[-1].token_ids)
        self._num_arrived_tokens -= num_tokens
        self._sort([*self._sorted, *arrived])
        self._longest_first = not self._longest_first

    def _sort(self, requests: list[EncodeRequest]) -> None:
        lens = np.fromiter((len(request.token_ids) for request in requests), np.int64, len(requests))
        order = np.argsort(lens, kind="stable")
        self._sorted, self._lens = [requests[index] for index in order.tolist()], lens[order]

    def _num_fitting(self) -> int:
        """How many rows of the end that is taken from fit the budget; at least one of any."""
        # no row has less than one token, so no more than this many fit
        limit = self.budget + 1
        lens = self._lens[: -limit - 1 : -1] if self._longest_first else self._lens[:limit]
        if not len(lens):
            return 0
        if self._form.rows != "any":
            # sorted, so those of equal length stand together
            lens = lens[:1] if self._form.rows == "none" else lens[lens == lens[0]]
        rectangles = np.maximum.accumulate(lens) * np.arange(1, len(lens) + 1)
        fits = self._form.cost(np.cumsum(lens), rectangles) <= self.budget
        return len(lens) if fits.all() else max(1, int(fits.argmin()))
