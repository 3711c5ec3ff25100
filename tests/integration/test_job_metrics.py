"""Metrics of a queue that knows many jobs: a few have numbers of their own, the others are counted."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from parquetry.monitor.metrics.shown_jobs import LINGER_S, MOST_FAILED, ShownJobs
from parquetry.monitor.observer import Observer
from parquetry.schemas.progress.states import JobState
from tests.page.world import World


@pytest.fixture
def world(client, ledger, tmp_path) -> World:
    return World(client, ledger, tmp_path)


def test_many_jobs_are_counted_and_few_are_shown(world, ledger):
    live = world.submit("live", shards=2)
    world.many(2000)
    families = {
        family.name: family.samples for family in text_string_to_metric_families(Observer(ledger).metrics().decode())
    }
    assert {sample.labels["state"]: sample.value for sample in families["parquetry_jobs"]} == {
        "running": 1, "paused": 0, "done": 1700, "failed": 100, "cancelled": 200,
    }  # fmt: skip
    shown = {sample.labels["job"] for sample in families["parquetry_job_rows"]}
    assert live.job in shown and len(shown) == 1 + MOST_FAILED


def test_a_job_that_has_ended_lingers_until_its_last_numbers_are_read(world, ledger):
    now = [0.0]
    shown, record = ShownJobs(ledger, clock=lambda: now[0]), world.submit("job", shards=2)
    assert [status.job for status in shown.find().statuses] == [record.job]
    ledger.set_state(record.job, JobState.CANCELLED)
    now[0] = LINGER_S - 1
    assert [status.state for status in shown.find().statuses] == [JobState.CANCELLED]
    now[0] = LINGER_S
    assert shown.find().statuses == []
    ledger.set_state(record.job, JobState.RUNNING)
    assert len(shown.find().statuses) == 1
    ledger.remove(record.job)
    assert shown.find().statuses == []


def test_lines_of_jobs_hold_what_the_queue_does_and_damage_is_a_failed_job(world, ledger):
    record, other = world.submit("first", shards=2), world.submit("second", shards=2)
    key = world.keys.of_job(other.job, "ctl")
    world.client.delete(key)
    world.client.set(key, "no hash")
    lines = {line.job: line for line in ledger.index.lines()}
    status = ledger.status(record.job)
    line = lines[record.job]
    assert (line.state, line.task, line.model, line.output, line.queue, line.name) == (
        status.state, status.task, status.model, status.output, status.queue, status.name,
    )  # fmt: skip
    assert lines[other.job].state is JobState.FAILED
