"""What is told of an engine: its counts since it was ready, and what it had to do without."""

from __future__ import annotations

from parquetry.workers.process.meter import Meter


class Counting:
    """An engine that has answered trial rows."""

    tokens = 70

    def describe(self):
        return {"backend": "packed", "runs_without": "compiled layers (no compiler; cost: 2.7 times)"}

    def stats(self):
        return {"prompt_tokens": self.tokens, "running": 2, "kv_use": 0.5}


def test_counts_begin_with_the_first_row_of_a_job():
    engine = Counting()
    meter = Meter(engine)
    engine.tokens += 5
    stats = meter.read()
    assert (stats.prompt_tokens, stats.running, stats.kv_use) == (5, 2, 0.5)


def test_what_an_engine_runs_without_is_told_with_its_counts():
    assert Meter(Counting()).read().slowed_by == ("runs without: compiled layers (no compiler; cost: 2.7 times)",)
