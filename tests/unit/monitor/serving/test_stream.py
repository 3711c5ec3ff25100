"""Server-sent events: what is sent, when nothing is, and when it ends."""

import asyncio
import json

import pytest

from parquetry.monitor.serving import stream
from parquetry.monitor.serving.stream import MAX_STREAMS, Streams
from parquetry.schemas.errors import UnknownJobError


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    """No pause between two looks."""
    monkeypatch.setattr(stream, "LOOK_S", 0.0)


def told(streams, looks, may_look=lambda: True):
    """The lines that these looks are sent as."""
    waiting = iter(looks)

    def look():
        found = next(waiting, None)
        if found is None:
            streams.are_over = lambda: True
            return {}
        if isinstance(found, Exception):
            raise found
        return found

    async def read():
        return [line async for line in streams.answer(look, may_look).body_iterator]

    return asyncio.run(read())


def test_what_has_not_changed_is_not_sent_again():
    running = [{"state": "running", "now": now} for now in (1, 2)]
    done = [{"state": "done", "ended": 3, "now": now} for now in (3, 4, 5)]
    lines = told(Streams(), [*running, *done])
    sent = [json.loads(line.partition("data: ")[2]) for line in lines[:-1]]
    assert [found["now"] for found in sent] == [1, 2, 3]


def test_the_clock_of_jobs_that_have_ended_is_no_news():
    looks = [{"jobs": [{"job": "a", "ended": 1, "now": now}], "total": 1} for now in (5, 6)]
    assert len(told(Streams(), looks)) == 2


def test_a_fault_is_told_and_the_stream_goes_on():
    lines = told(Streams(), [UnknownJobError(job="x", suggestion=""), {"state": "running"}])
    assert lines[0].startswith("event: problem") and "There is no job x" in lines[0]
    assert lines[1].startswith("event: look")


def test_text_of_others_cannot_end_an_event():
    (line, _) = told(Streams(), [{"output": "a\n\nevent: look\ndata: {}"}])
    assert line.count("\n\n") == 1 and line.endswith("\n\n")


def test_it_ends_with_the_login():
    assert told(Streams(), [{"a": 1}], lambda: False) == []


def test_streams_are_counted_and_bounded():
    streams = Streams()
    told(streams, [{"a": 1}])
    streams.are_over = lambda: False
    assert streams._open == 0
    streams._open = MAX_STREAMS
    assert streams.answer(dict, lambda: True).status_code == 503
