import pytest

from parquetry.monitor.progress.job_phase import PATIENCE_S, job_phase
from parquetry.schemas.progress.states import EnginePhase, JobPhase, JobState
from parquetry.schemas.progress.status import EngineState
from tests.unit.monitor.made_statuses import job_status, worker_status

QUEUED = {"shards_running": 0, "shards_pending": 6, "workers": {}}
HELD = {"shards_running": 2, "workers": {"w1": 2}, "now": 1100.0}


def worker_in(phase: EnginePhase, **changes):
    state = EngineState(phase=phase, seconds=3.0, model="/models/tiny", **changes)
    return worker_status(state=state, seen=1098.0, model="some/model")


@pytest.mark.parametrize("state", [state for state in JobState if state is not JobState.RUNNING])
def test_a_job_that_does_not_run_is_in_the_phase_of_its_state(state):
    assert job_phase(job_status(state=state), []).phase == state.value


def test_shards_with_an_engine_run():
    assert job_phase(job_status(**HELD, shards_computing=1), [worker_status()]).phase is JobPhase.RUNNING


def test_loading_says_what_for_how_long():
    loading = worker_in(EnginePhase.LOADING, weight_bytes=16_100_000_000, backend="packed", quantization="nf4")
    found = job_phase(job_status(**HELD), [loading])
    assert (found.phase, found.seconds) == (JobPhase.LOADING, pytest.approx(5.0))
    assert found.reason == "reads tiny (16.1 GB, back end packed, nf4) on cpu"


def test_the_worker_nearest_to_work_speaks_for_the_job():
    workers = [
        worker_in(EnginePhase.STARTING),
        worker_in(EnginePhase.LOADING).model_copy(update={"worker": "w2"}),
    ]
    assert job_phase(job_status(**{**HELD, "workers": {"w1": 1}}), workers).phase is JobPhase.STARTING
    assert job_phase(job_status(**{**HELD, "workers": {"w1": 1, "w2": 1}}), workers).phase is JobPhase.LOADING


def test_an_engine_that_died_is_told_with_its_words():
    dead = worker_in(EnginePhase.IDLE, problem="it was killed by SIGKILL")
    found = job_phase(job_status(**HELD), [dead])
    assert found.phase is JobPhase.STALLED
    assert "it was killed by SIGKILL" in found.reason


def test_silent_workers_stall_a_job_whose_shards_they_hold():
    found = job_phase(job_status(**HELD), [worker_status(worker="other")])
    assert (found.phase, "silent" in found.reason) == (JobPhase.STALLED, True)


def test_no_worker_is_a_stall_after_a_while_and_says_what_to_do():
    young = job_status(**QUEUED, created=1000.0, now=1000.0 + PATIENCE_S / 2)
    assert job_phase(young, []).phase is JobPhase.QUEUED
    found = job_phase(job_status(**QUEUED, queue="big"), [worker_status()])
    assert found.phase is JobPhase.STALLED
    assert found.reason == "no live worker serves queue big; `parquetry worker --queues big` starts one"


def test_workers_that_lack_something_stall_it():
    needs = {"needs": ("torch", "bitsandbytes")}
    poor = worker_status(offers=("torch",))
    found = job_phase(job_status(**QUEUED, **needs), [poor])
    assert found.reason == (
        "no worker of queue default can serve it: w1 lacks bitsandbytes; start `parquetry worker` where "
        "`pip install 'parquetry[gpu]'` was run"
    )
    rich = worker_status(worker="w2", offers=("torch", "bitsandbytes"))
    assert job_phase(job_status(**QUEUED, **needs), [poor, rich]).phase is JobPhase.QUEUED
    assert job_phase(job_status(**QUEUED, **needs), [worker_status(offers=None)]).phase is JobPhase.QUEUED


def test_workers_that_have_declined_it_stall_it():
    told = {"declined": {"24 GiB": "The engine refused the job: too large."}}
    found = job_phase(job_status(**QUEUED, **told), [worker_status(kind="24 GiB")])
    assert found.phase is JobPhase.STALLED
    assert found.reason.endswith("w1 cannot run it (The engine refused the job: too large)")
    assert job_phase(job_status(**QUEUED, **told), [worker_status(kind="80 GiB")]).phase is JobPhase.QUEUED


def test_workers_that_are_too_old_for_its_record_stall_it():
    found = job_phase(job_status(**QUEUED, version=3), [worker_status(reads=2)])
    assert found.reason.endswith("w1 reads records up to version 2, and the job's is of version 3")


def test_a_refusal_is_why_it_has_failed():
    assert job_phase(job_status(state=JobState.FAILED, refusal="Why."), []).text == "failed: Why."


def test_the_end_is_being_written():
    over = job_status(shards_running=0, shards_pending=0, shards_done=10)
    assert job_phase(over, []).text == "running: writes its manifest"
