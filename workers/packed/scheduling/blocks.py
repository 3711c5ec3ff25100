"""The pool of KV blocks: reference counts, a free list in eviction order, and the prefix cache over them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence


class BlockPool:
    """Hands out block numbers in [0, num_blocks).

    A released block keeps its contents and its key until it is handed out again, so a later prompt with the same
    prefix can take it back. The least recently released block goes first.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._ref_counts = [0] * num_blocks
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))
        self._block_of_key: dict[bytes, int] = {}
        self._key_of_block: dict[int, bytes] = {}

    @property
    def num_free(self) -> int:
        """Blocks nobody holds, cached ones included."""
        return len(self._free)

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that `num_tokens` tokens take."""
        return -(-num_tokens // self.block_size)

    def try_allocate(self, count: int) -> list[int] | None:
        """`count` blocks with one reference each, or None and no effect when fewer are free."""
        if count > len(self._free):
            return None
        blocks = [self._free.popitem(last=False)[0] for _ in range(count)]
        for block in blocks:
            self._ref_counts[block] = 1
            self._forget(block)
        return blocks

    def match(self, keys: Sequence[bytes]) -> list[int]:
        """The cached blocks of the longest known prefix of `keys`. No effect; `hold` them before allocating."""
        blocks: list[int] = []
        for key in keys:
            block = self._block_of_key.get(key)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def num_unheld(self, blocks: Iterable[int]) -> int:
        """How many of `blocks` count as free now."""
        return sum(self._ref_counts[block] == 0 for block in blocks)

    def hold(self, blocks: Iterable[int]) -> None:
        """Take one more reference to each block."""
        for block in blocks:
            if self._ref_counts[block] == 0:
                del self._free[block]
            self._ref_counts[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """Give one reference back; the last blocks of a sequence are evicted before its first ones."""
        for block in reversed(blocks):
            assert self._ref_counts[block] > 0, f"block {block} released twice"
            self._ref_counts[block] -= 1
            if self._ref_counts[block] == 0:
                self._free[block] = None

    def publish(self, block: int, key: bytes) -> None:
        """Let later prompts find a full block. The first block of a key stays its block."""
        if key not in self._block_of_key and block not in self._key_of_block:
            self._block_of_key[key] = block
            self._key_of_block[block] = key

    def forget_all(self) -> None:
        """Empty the prefix cache: the contents of the blocks are not to be trusted."""
        self._block_of_key.clear()
        self._key_of_block.clear()

    def _forget(self, block: int) -> None:
        key = self._key_of_block.pop(block, None)
        if key is not None:
            del self._block_of_key[key]

    def check_integrity(self, held: Iterable[Sequence[int]]) -> None:
        """Raise RuntimeError unless the books balance against the block lists of every sequence alive."""
        counts = [0] * self.num_blocks
        for blocks in held:
            for block in blocks:
                counts[block] += 1
        if counts != self._ref_counts:
            wrong = [b for b in range(self.num_blocks) if counts[b] != self._ref_counts[b]]
            raise RuntimeError(f"reference counts disagree on blocks {wrong[:8]}")
        num_held = sum(count > 0 for count in counts)
        if len(self._free) + num_held != self.num_blocks:
            raise RuntimeError(f"free {len(self._free)} + held {num_held} != total {self.num_blocks}")
        if {key: block for block, key in self._key_of_block.items()} != self._block_of_key:
            raise RuntimeError("the prefix cache names a block that does not name it back")
