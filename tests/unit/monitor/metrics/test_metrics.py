import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from parquetry.monitor.metrics.metrics import render
from parquetry.schemas.progress.histogram import SHARD_SECONDS, STEP_SECONDS
from parquetry.schemas.progress.status import DeviceUse, EngineStats
from tests.unit.monitor.made_statuses import busy_job, busy_worker, job_status, worker_status

DEPLOY = Path(__file__).resolve().parents[4] / "deploy"


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


def test_shards_and_steps_by_how_long_they_took():
    durations = (1, 2, *(0,) * (SHARD_SECONDS.num_buckets - 2))
    steps = (*(0,) * (STEP_SECONDS.num_buckets - 1), 4)
    engine = EngineStats(step_durations=steps, steps=4, busy_seconds=200.0, kv_use=0.5)
    text = render([job_status(shard_durations=durations, shard_seconds=4.5)], [worker_status(engine=engine)]).decode()
    found = {
        (sample.name, sample.labels.get("le")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["parquetry_job_shard_seconds_bucket", "1"] == 1
    assert found["parquetry_job_shard_seconds_bucket", "2"] == 3
    assert found["parquetry_job_shard_seconds_count", None] == 3
    assert found["parquetry_job_shard_seconds_sum", None] == 4.5
    assert found["parquetry_engine_step_seconds_bucket", "30"] == 0
    assert found["parquetry_engine_step_seconds_count", None] == 4
    assert found["parquetry_engine_kv_use", None] == 0.5


def test_what_a_device_does_not_tell_is_left_out():
    found = parse([], [worker_status(device_use=DeviceUse(use=0.97))])
    assert found["parquetry_device_use", None].value == 0.97
    assert ("parquetry_device_memory_used_bytes", None) not in found


def test_the_phase_of_a_job():
    families = text_string_to_metric_families(render([job_status(shards_running=0)], []).decode())
    phases = {s.labels["phase"]: s.value for f in families if f.name == "parquetry_job_phase" for s in f.samples}
    assert [phase for phase, value in phases.items() if value] == ["stalled"]


def test_the_dashboard_and_the_alerts_ask_for_what_there_is():
    """Every name of ours in deploy/ is a metric of a job and a worker that have everything."""
    text = render([busy_job()], [busy_worker()]).decode()
    known = {s.name for family in text_string_to_metric_families(text) for s in family.samples}
    for file in (*DEPLOY.rglob("*.json"), *DEPLOY.rglob("*.yml")):
        asked = set(re.findall(r"\bparquetry_(?:job|worker|engine|device)_\w+", file.read_text()))
        assert asked <= known, (file, asked - known)


def test_nothing_there_is_still_valid():
    assert parse([]) == {}
