"""What happened to a job and to its shards: kept in Redis while it runs, the last of it beside its output."""

from __future__ import annotations

from typing import NamedTuple


class JobEvent(NamedTuple):
    """Something that happened to a job, or to one of its shards."""

    #: since the Unix epoch, on the clock of Redis
    at_ms: int
    #: registered, extended, running, paused, cancelled, done, failed, retried; of a shard lost, failed-shard, reopened
    kind: str
    #: None for the job itself
    shard: int | None
    #: why, and by whom; may be empty
    text: str

    @classmethod
    def parse(cls, line: str) -> JobEvent:
        """The event of a line as the scripts write it."""
        at_ms, kind, shard, text = line.split(" ", 3)
        return cls(int(at_ms), kind, None if shard == "-" else int(shard), text)


class ShardEnd(NamedTuple):
    """One shard that was committed."""

    at_ms: int
    shard: int
    #: 0 and empty where the part was found in storage
    fence: int
    worker: str
    #: from its first row read to its last one written; 0 where that is not known
    took_ms: int
    rows: int
    error_rows: int

    @classmethod
    def parse(cls, line: str) -> ShardEnd:
        """The end of a line as commit.lua writes it."""
        at_ms, shard, holder, *counts = line.split(" ")
        fence, _, worker = holder.partition(":")
        return cls(int(at_ms), int(shard), int(fence or 0), worker, *map(int, counts))
