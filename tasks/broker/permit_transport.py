"""kombu's Redis transport, for a broker that refuses now and then and may hold what is no message.

A worker process must outlive both: shards run in its children.
"""

from __future__ import annotations

import logging
import time
from queue import Empty
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis
from redis.exceptions import ConnectionError, ResponseError

from parquetry.tasks.broker.connection import is_passing

log = logging.getLogger(__name__)
#: between two tries while the broker refuses
PAUSE_S = 1.0
#: what kombu and json raise of an item that is no message
UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, IndexError)


class _Tolerant:
    """Goes before a channel class of kombu."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]
        except ResponseError as error:
            if not is_passing(error):
                raise
            time.sleep(PAUSE_S)
            # a lost connection is what Celery waits for and builds anew
            raise ConnectionError(str(error)) from None
        except UNREADABLE as error:
            log.error("an item of the queue is no message (%s: %s); it is dropped", type(error).__name__, error)
            raise Empty from None


class PermitChannel(_Tolerant, redis.Channel):
    """Of a single server."""


class PermitTransport(redis.Transport):
    """Of a single server."""

    Channel = PermitChannel


class SentinelPermitChannel(_Tolerant, redis.SentinelChannel):
    """Of a master that Sentinels name."""


class SentinelPermitTransport(redis.SentinelTransport):
    """Of a master that Sentinels name."""

    Channel = SentinelPermitChannel


def use_permit_transport() -> None:
    """Let kombu open this process's redis URLs through it; kombu picks a transport by the scheme alone."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:PermitTransport"
    TRANSPORT_ALIASES["sentinel"] = f"{__name__}:SentinelPermitTransport"
