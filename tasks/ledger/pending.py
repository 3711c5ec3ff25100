"""Pending shards as ranges, and committed ones as a bitmap: a job of a million shards loads as one list item."""

from __future__ import annotations

from collections.abc import Collection, Iterator


def pending_items(num_shards: int, done: Collection[int]) -> Iterator[str]:
    """The shards of [0, num_shards) not in `done`: "7", or the inclusive range "7-99"."""
    start = 0
    for shard in [*sorted(done), num_shards]:
        if shard > start:
            yield _item(start, shard - 1)
        start = shard + 1


def _item(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def expand(items: Collection[str]) -> list[int]:
    """The shards of pending items, in their order."""
    shards: list[int] = []
    for item in items:
        first, _, last = item.partition("-")
        shards.extend(range(int(first), int(last or first) + 1))
    return shards


def to_bitmap(done: Collection[int]) -> bytes:
    """Bit 7 of byte 0 is shard 0, as SETBIT has it."""
    bitmap = bytearray(max(done, default=-1) // 8 + 1)
    for shard in done:
        bitmap[shard // 8] |= 0x80 >> shard % 8
    return bytes(bitmap)


def from_bitmap(bitmap: bytes) -> set[int]:
    """The shards whose bit is set."""
    return {index * 8 + bit for index, byte in enumerate(bitmap) if byte for bit in range(8) if byte & (0x80 >> bit)}
