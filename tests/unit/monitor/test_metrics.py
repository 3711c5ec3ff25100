from prometheus_client.parser import text_string_to_metric_families

from parquetry.monitor.metrics import render
from tests.unit.monitor.made_statuses import job_status, worker_status


def parse(jobs, workers=()):
    families = text_string_to_metric_families(render(jobs, workers).decode())
    return {(s.name, s.labels.get("state")): s for family in families for s in family.samples}


def test_numbers_and_labels_of_a_job():
    found = parse([job_status()])
    assert found["parquetry_job_rows_done_total", None].value == 400
    assert found["parquetry_job_output_tokens_total", None].value == 8000
    labels = {"job": "generate-0123456789ab", "task": "generate", "model": "some/model", "queue": "default"}
    assert found["parquetry_job_rows", None].labels == labels


def test_one_state_is_set_and_shards_are_counted_by_state():
    found = parse([job_status()])
    states = {state: s.value for (name, state), s in found.items() if name == "parquetry_job_state"}
    assert states == {"running": 1, "paused": 0, "cancelled": 0, "done": 0, "failed": 0}
    shards = {state: s.value for (name, state), s in found.items() if name == "parquetry_job_shards"}
    assert shards == {"pending": 4, "leased": 2, "committed": 4, "failed": 0}


def test_hostile_names_survive_the_format():
    name = 'a"b\\c\nd'
    assert parse([job_status(model=name)])["parquetry_job_rows", None].labels["model"] == name


def test_workers():
    assert parse([], [worker_status()])["parquetry_worker_shards_in_flight", None].value == 2


def test_nothing_there_is_still_valid():
    assert parse([]) == {}
