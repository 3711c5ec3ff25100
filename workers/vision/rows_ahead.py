"""Rows made ready in threads while the device is busy: a bounded number of bytes ahead of it."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from parquetry.schemas.errors import RowError
from parquetry.workers.request import VisionRequest
from parquetry.workers.vision.collation import Row, num_bytes

#: decoding and resizing leave the interpreter's lock, so a few threads keep up with a fast device
NUM_THREADS = max(1, min(8, (os.cpu_count() or 1) - 1))
#: bytes of finished rows that nobody has used yet
MAX_BYTES = 1 << 30
Made = Row | RowError


class RowsAhead:
    """Makes rows of requests. Used by one thread, which `take`s what is made and says with `release` what is used."""

    def __init__(self, make: Callable[[VisionRequest], Row], *, max_bytes: int = MAX_BYTES) -> None:
        self._make = make
        self._max_bytes = max_bytes
        self._pool = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="ahead")
        #: samples of one row together: they share what is made
        self._waiting: deque[list[VisionRequest]] = deque()
        self._making: dict[Future[Made], list[VisionRequest]] = {}
        #: of finished rows that are not used up
        self.held_bytes = 0

    def __len__(self) -> int:
        """Requests that were added, and neither taken nor forgotten."""
        return sum(map(len, self._waiting)) + sum(map(len, self._making.values()))

    @property
    def is_full(self) -> bool:
        """Whether no more is begun before something is used."""
        return self.held_bytes >= self._max_bytes

    def add(self, requests: Iterable[VisionRequest]) -> None:
        for request in requests:
            if self._waiting and _same_prompt(self._waiting[-1][-1], request):
                self._waiting[-1].append(request)
            else:
                self._waiting.append([request])
        self.fill()

    def fill(self) -> None:
        """Begin what fits; called whenever something may have changed."""
        while self._waiting and not self.is_full and len(self._making) < 2 * NUM_THREADS:
            samples = self._waiting.popleft()
            self._making[self._pool.submit(self._made, samples[0])] = samples

    def _made(self, request: VisionRequest) -> Made:
        try:
            return self._make(request)
        except RowError as error:
            return error

    def take(self, timeout: float) -> list[tuple[VisionRequest, Made]]:
        """What has been made since; waits up to `timeout` seconds for the first."""
        self.fill()
        done, _ = wait(self._making, timeout, FIRST_COMPLETED)
        found = []
        # in the order they were begun, so that equal lengths keep it
        for future in [future for future in self._making if future in done]:
            made = future.result()
            samples = self._making.pop(future)
            self.held_bytes += len(samples) * _size(made)
            found += [(request, made) for request in samples]
        return found

    def release(self, rows: Sequence[Made]) -> None:
        """Free the bytes of these rows; a row counts once for each of its samples."""
        self.held_bytes -= sum(map(_size, rows))
        self.fill()

    def forget(self, ids: Collection[int]) -> None:
        """Drop requests by their id; what is being made for them is thrown away."""
        self._waiting = deque(kept for samples in self._waiting if (kept := _without(samples, ids)))
        self._making = {future: _without(samples, ids) for future, samples in self._making.items()}


def _same_prompt(one: VisionRequest, other: VisionRequest) -> bool:
    """Whether they are samples of one row. Equal bytes are not compared: samples share their images."""
    return one.text == other.text and [*map(id, one.images)] == [*map(id, other.images)] and one.row == other.row


def _without(samples: Sequence[VisionRequest], ids: Collection[int]) -> list[VisionRequest]:
    return [request for request in samples if request.id not in ids]


def _size(made: Made) -> int:
    return 0 if isinstance(made, RowError) else num_bytes(made)
