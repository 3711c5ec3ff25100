"""Waits for a broker that is not there yet."""

from __future__ import annotations

import logging
import time
from typing import Protocol

import redis

from parquetry.schemas.errors import BrokerUnreachableError
from parquetry.tasks.broker.connection import connect

log = logging.getLogger(__name__)
#: between two tries, and between two lines that say so
PAUSE_S = 1.0
LINE_S = 30.0


class Stop(Protocol):
    """Something that ends the wait."""

    def wait(self, timeout: float) -> bool:
        """True as soon as it has come."""
        ...


def wait_for_broker(url: str, limit_s: float | None, stop: Stop) -> redis.Redis | None:
    """A client of the broker, None when `stop` came first; waits `limit_s` seconds, for ever where it is None.

    Raises BrokerUnreachableError after that, and at once BrokerRefusedError for what no waiting mends.
    """
    begun, told = time.monotonic(), float("-inf")
    while True:
        try:
            return connect(url)
        except BrokerUnreachableError as error:
            waited = time.monotonic() - begun
            if limit_s is not None and waited >= limit_s:
                raise
            if time.monotonic() - told >= LINE_S:
                told = time.monotonic()
                log.warning("waiting for the broker, since %.0f s: %s", waited, error)
        if stop.wait(PAUSE_S):
            return None
