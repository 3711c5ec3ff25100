"""The expected length of outputs against lengths that are known."""

from collections import Counter

import numpy as np
import pytest

from parquetry.workers.shards.row_output import expected_output


def test_nothing_finished_tells_nothing():
    assert expected_output({}, [3, 4], 256) is None


def test_all_finished_is_their_mean():
    lengths = [0, 5, 5, 20]
    assert expected_output(Counter(lengths), [], 256) == pytest.approx(np.mean(lengths))


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
@pytest.mark.parametrize("limit", [60, 1000])
def test_a_batch_that_began_together_is_told_from_its_first_rows(share, limit):
    """Rows of a geometric length, all begun at once, looked at when a share of them is finished."""
    lengths = np.minimum(np.random.default_rng(1).geometric(1 / 40, 600), limit)
    now = int(np.quantile(lengths, share))
    finished = Counter(length for length in lengths.tolist() if length <= now)
    found = expected_output(finished, [now] * int((lengths > now).sum()), limit)
    assert found == pytest.approx(lengths.mean(), rel=0.2)
    assert np.mean([length for length in lengths if length <= now]) < 0.7 * found


def test_a_full_engine_is_told_while_rows_come_and_go():
    """Sixty-four lanes, each filled anew when its row ends, looked at after a few rows a lane."""
    random = np.random.default_rng(2)
    finished, under_way = Counter(), []
    for _ in range(64):
        at = 0
        while at + (length := int(random.integers(10, 200))) <= 250:
            finished[length] += 1
            at += length
        under_way.append(250 - at)
    assert expected_output(finished, under_way, 1000) == pytest.approx(104.5, rel=0.15)
