"""Tells each client of an engine how far its unfinished requests are."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from parquetry.workers.process.messages import under_way_frame
from parquetry.workers.process.wire import Frame
from parquetry.workers.request import UnderWay

#: often enough that what a terminal shows is two seconds old at most, rare enough to cost the engine nothing
TELL_S = 0.5


class Listener(Protocol):
    """A client's connection."""

    def send(self, frame: Frame) -> None: ...


class Telling:
    """One small frame a client, at most every TELL_S; `tell` may be called from inner loops."""

    def __init__(self) -> None:
        self._told_at = 0.0
        #: clients that were told of requests the last time, and must learn when there are none
        self._told: set[Listener] = set()

    def tell(self, under_way: Callable[[], Iterable[UnderWay]], owners: Mapping[int, tuple[Listener, int]]) -> None:
        """`owners` has the client of each request, and the id that the client gave it."""
        now = time.monotonic()
        if now - self._told_at < TELL_S:
            return
        self._told_at = now
        by_client = defaultdict[Listener, list[tuple[int, int, int]]](list)
        for id, num_prompt, num_output in under_way():
            if (owner := owners.get(id)) is not None:
                by_client[owner[0]].append((owner[1], num_prompt, num_output))
        for client in self._told | by_client.keys():
            client.send(under_way_frame(by_client.get(client, [])))
        self._told = set(by_client)

    def forget(self, client: Listener) -> None:
        """It has left."""
        self._told.discard(client)
