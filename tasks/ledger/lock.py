"""A lock that ends by itself: it keeps two from doing the same work, and nothing's correctness rests on it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from parquetry.tasks.broker.connection import translated
from parquetry.tasks.ledger.ledger import Ledger


@contextmanager
def lock(ledger: Ledger, name: str, ttl_s: float) -> Iterator[bool]:
    """Yields whether we got it; never waits."""
    token, key = uuid.uuid4().hex, ledger.keys.lock(name)
    with translated(ledger.scripts.url):
        held = bool(ledger.client.set(key, token, nx=True, px=int(ttl_s * 1000)))
    try:
        yield held
    finally:
        if held:
            ledger.scripts("unlock", [key], [token])
