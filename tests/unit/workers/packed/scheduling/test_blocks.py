"""Blocks: reference counts, eviction order, the prefix cache, and the books under random use."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parquetry.workers.packed.scheduling.blocks import BlockPool
from parquetry.workers.packed.scheduling.prefix import chain_block_keys


def test_allocate_is_all_or_nothing() -> None:
    pool = BlockPool(4, 16)
    assert pool.try_allocate(3) == [0, 1, 2]
    assert pool.try_allocate(2) is None
    assert pool.num_free == 1


def test_the_tail_of_a_sequence_is_evicted_first() -> None:
    pool = BlockPool(3, 16)
    pool.release(pool.try_allocate(3))
    assert pool.try_allocate(3) == [2, 1, 0]


def test_cached_blocks_come_back_until_they_are_reused() -> None:
    pool = BlockPool(2, 4)
    blocks = pool.try_allocate(2)
    pool.publish(blocks[0], b"a")
    pool.publish(blocks[1], b"b")
    pool.release(blocks)
    assert pool.match([b"a", b"b", b"c"]) == blocks
    pool.try_allocate(1)
    assert pool.match([b"a", b"b"]) == blocks[:1]


def test_a_block_is_free_when_its_last_holder_is_gone() -> None:
    pool = BlockPool(2, 4)
    blocks = pool.try_allocate(1)
    pool.hold(blocks)
    pool.release(blocks)
    assert pool.num_free == 1
    pool.release(blocks)
    assert pool.num_free == 2
    with pytest.raises(AssertionError, match="released twice"):
        pool.release(blocks)


def test_the_books_are_checked() -> None:
    pool = BlockPool(2, 4)
    blocks = pool.try_allocate(1)
    pool.check_integrity([blocks])
    with pytest.raises(RuntimeError, match="reference counts disagree on blocks"):
        pool.check_integrity([])


def test_keys_name_the_whole_prefix() -> None:
    tokens = np.arange(10, dtype=np.int32)
    keys = chain_block_keys(tokens, 4)
    assert len(keys) == 2
    assert chain_block_keys(tokens[:8], 4) == keys
    changed = tokens.copy()
    changed[0] = 99
    assert not set(chain_block_keys(changed, 4)) & set(keys)
    assert chain_block_keys(tokens[:3], 4) == []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["new", "end", "share"]), st.integers(0, 7)), max_size=60))
def test_random_use_keeps_the_books(steps: list[tuple[str, int]]) -> None:
    pool, held, keys = BlockPool(12, 4), [], [bytes([i]) for i in range(8)]
    for verb, n in steps:
        if verb == "new":
            cached = pool.match(keys[:n])
            pool.hold(cached)
            fresh = pool.try_allocate(n - len(cached))
            if fresh is None:
                pool.release(cached)
            else:
                for block, key in zip(fresh, keys[len(cached) : n], strict=True):
                    pool.publish(block, key)
                held.append(cached + fresh)
        elif verb == "end" and held:
            pool.release(held.pop(n % len(held)))
        elif verb == "share" and held:
            held.append(list(held[n % len(held)]))
            pool.hold(held[-1])
        pool.check_integrity(held)
        assert pool.num_free == 12 - len({block for blocks in held for block in blocks})
