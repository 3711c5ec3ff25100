"""A node that works says so once a minute."""

from __future__ import annotations

import logging

from parquetry.tasks.ledger.claim import Claim
from parquetry.tasks.node.work_line import LINE_S, WorkLine


class Books:
    """What a ledger tells of one worker."""

    rows, held = 0, 1

    def rows_of(self, worker: str) -> int:
        return self.rows

    def holdings(self, worker: str) -> list[Claim]:
        return [Claim(job="job", shard=shard, fence=1, worker=worker, output="") for shard in range(self.held)]


def test_rows_a_second_are_told_once_a_minute_and_only_of_work(caplog):
    now, books = [0.0], Books()
    line = WorkLine(["w"], clock=lambda: now[0])
    caplog.set_level(logging.INFO)
    line.tell_if_due(books)
    now[0], books.rows = LINE_S, 90
    line.tell_if_due(books)
    line.tell_if_due(books)
    assert caplog.messages == ["1.5 rows/s, 90 rows so far; 1 shards in hand of jobs: job"]
    # the last shard is over
    now[0], books.held = 2 * LINE_S, 0
    line.tell_if_due(books)
    assert len(caplog.messages) == 1
    # it was given back, and another begun
    now[0], books.rows, books.held = 3 * LINE_S, 60, 1
    line.tell_if_due(books)
    assert caplog.messages[1].startswith("0.0 rows/s")
