"""Locks with a time limit. They save double work; correctness does not depend on them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from parquetry.tasks.broker.connection import translated
from parquetry.tasks.keys import Keys
from parquetry.tasks.ledger.scripts import Scripts


@contextmanager
def lock(scripts: Scripts, keys: Keys, name: str, ttl_s: float) -> Iterator[bool]:
    """See `Ledger.lock`."""
    token, key = uuid.uuid4().hex, keys.lock(name)
    with translated(scripts.url):
        held = bool(scripts.client.set(key, token, nx=True, px=int(ttl_s * 1000)))
    try:
        yield held
    finally:
        if held:
            scripts("unlock", [key], [token])
