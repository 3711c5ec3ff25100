"""Signs of life: rare, small, and read whole."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from parquetry.schemas.progress.histogram import STEP_SECONDS
from parquetry.schemas.progress.status import EngineStats
from parquetry.workers.process.meter import MAX_SENTENCE
from parquetry.workers.process.pulse import Pulse, PulseReader


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    yield reader, writer
    os.close(reader)


def test_a_thousand_pulses_are_one_message_and_one_look_at_the_counts(pipe):
    reader, writer = pipe
    pulse, asked = Pulse(writer), []

    def stats() -> EngineStats:
        asked.append(1)
        return EngineStats(output_tokens=7, kv_use=0.25)

    for _ in range(1000):
        pulse.send(stats)

    assert PulseReader(reader).read() == [{"state": "alive", "stats": {"output_tokens": 7, "kv_use": 0.25}}]
    assert len(asked) == 1
    os.close(writer)


def test_a_message_fits_the_pipe_whatever_was_counted(pipe):
    """A write of at most PIPE_BUF bytes is never torn by another."""
    reader, writer = pipe
    most = dict.fromkeys(EngineStats.model_fields, 10**15) | {
        "slowed_by": ["x" * MAX_SENTENCE] * 3,
        "step_durations": [10**15] * STEP_SECONDS.num_buckets,
    }
    Pulse(writer).send(lambda: EngineStats.model_validate(most))
    assert len(os.read(reader, 65536)) < 4096
    os.close(writer)


def test_the_end_of_the_process_is_seen(pipe):
    reader, writer = pipe
    signs = PulseReader(reader)
    assert signs.read() == []
    assert signs.is_open
    os.close(writer)
    assert signs.read() == []
    assert not signs.is_open
