"""A sentence that comes again and again stands in the log once a minute."""

from __future__ import annotations

import logging

import redis

from parquetry.tasks.node.repeated_lines import QUIET_S, RepeatedLines


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def record(text: str, level: int = logging.WARNING, error: Exception | None = None) -> logging.LogRecord:
    return logging.LogRecord("a.b", level, __file__, 1, text, None, error and (type(error), error, None))


def test_repetitions_are_counted_and_told_later() -> None:
    clock = Clock()
    lines = RepeatedLines(clock)
    assert [lines.filter(record("no beat")) for _ in range(5)] == [True, False, False, False, False]
    assert lines.filter(record("something else"))
    clock.now = QUIET_S
    again = record("no beat")
    assert lines.filter(again)
    assert again.getMessage() == "no beat (and 4 times more since)"


def test_news_are_never_held_back() -> None:
    lines = RepeatedLines(Clock())
    assert all(lines.filter(record("shard 1: committed", logging.INFO)) for _ in range(3))


def test_a_refusal_of_the_broker_has_no_traceback() -> None:
    told = record("Error in timer", logging.ERROR, redis.exceptions.ReadOnlyError("You can't write"))
    bug = record("Error elsewhere", logging.ERROR, KeyError("x"))
    lines = RepeatedLines(Clock())
    assert lines.filter(told) and lines.filter(bug)
    assert told.exc_info is None and bug.exc_info is not None
