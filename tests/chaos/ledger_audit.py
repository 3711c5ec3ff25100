"""The ledger's invariants, read straight from its keys: no code of ours stands between the server and the verdict.

I5  the counter of committed shards, the bitmap and the parts in storage agree
I6  no shard is in two of pending, leased, committed and failed, and none is in neither
"""

from __future__ import annotations

from collections import Counter

import redis


def audit(client: redis.Redis, env: str, job: str, parts: int | None = None) -> list[str]:
    """Violations of I5 and I6; `parts` is the number of parts in the output, where the job is over."""
    base = f"pq:{env}:{{{job}}}:"
    ctl = {k.decode(): v.decode() for k, v in client.hgetall(base + "ctl").items()}
    if not ctl:
        return [f"I5: the ledger does not know {job}"]
    committed = _bits(client.get(base + "done") or b"")
    found = []
    if int(ctl["done"]) != len(committed) or parts not in (None, len(committed)):
        found.append(f"I5: counter {ctl['done']}, bitmap {len(committed)}, parts {parts}")
    return found + _held_once(client, base, committed, int(ctl["shards"]))


def _held_once(client: redis.Redis, base: str, committed: set[int], shards: int) -> list[str]:
    leased = [int(shard) for shard in client.zrange(base + "lease", 0, -1)]
    failed = [int(shard) for shard in client.hkeys(base + "bad")]
    # a part adopted while its shard waited leaves an entry behind, which CLAIM skips
    pending = [shard for shard in _pending(client, base) if shard not in committed]
    counts = Counter([*pending, *leased, *failed, *committed])
    twice = [shard for shard, count in counts.items() if count > 1]
    nowhere = [shard for shard in range(shards) if not counts[shard]]
    found = [f"I6: shards {twice[:3]} are in two places"] if twice else []
    return found + ([f"I6: shards {nowhere[:3]} are nowhere"] if nowhere else [])


def _pending(client: redis.Redis, base: str) -> list[int]:
    shards: list[int] = []
    for item in client.lrange(base + "pend", 0, -1):
        first, _, last = item.decode().partition("-")
        shards.extend(range(int(first), int(last or first) + 1))
    return shards


def _bits(bitmap: bytes) -> set[int]:
    return {8 * i + bit for i, byte in enumerate(bitmap) for bit in range(8) if byte >> (7 - bit) & 1}


def holders(client: redis.Redis, env: str, job: str) -> dict[int, str]:
    """Leased shards and the token each is held with, "fence:worker"."""
    tokens = client.hgetall(f"pq:{env}:{{{job}}}:tok")
    return {int(shard): token.decode() for shard, token in tokens.items()}


def is_committed(client: redis.Redis, env: str, job: str, shard: int) -> bool:
    return bool(client.getbit(f"pq:{env}:{{{job}}}:done", shard))
