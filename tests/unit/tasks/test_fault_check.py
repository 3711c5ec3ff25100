"""Whether the rows of a shard, or the engine, explain why engines fail."""

from __future__ import annotations

import pytest

from parquetry.tasks.shard.fault_check import one_explains


@pytest.mark.parametrize(
    ("faults", "committed", "explained"),
    [
        ([[3]], set(), True),
        ([[3, 4], [3, 5]], set(), True),
        ([[3, 4], [5, 6]], set(), False),
        # pairs have one in common, all of them have none
        ([[1, 2], [2, 3], [1, 3]], set(), False),
        # the first has passed, or its row was found
        ([[3, 4], [5, 6]], {3, 4}, True),
        ([[3, 4], [5, 6]], {3}, False),
        ([], set(), True),
    ],
)
def test_one_shard_explains_all_faults_that_are_open(faults, committed, explained):
    assert one_explains(faults, committed) is explained
