import pytest

from parquetry.commands.machine import check_queues
from parquetry.local import needed_packages
from parquetry.local.needed_packages import require_engine, require_model
from parquetry.local.preview import limited
from parquetry.local.run import FinishedRun, take_up
from parquetry.local.summary import headline, run_as_dict
from parquetry.schemas.errors import MissingPackageError
from parquetry.schemas.progress.states import JobState
from parquetry.schemas.spec.job import JobSpec, ModelSpec
from tests.unit.monitor.made_statuses import job_status


class Ledger:
    """One job whose changes are noted."""

    def __init__(self, state):
        self.state, self.calls = state, []

    def status(self, job, *, max_failures=20):
        return job_status(state=self.state, shards_running=0 if self.state.is_final else 2)

    def set_state(self, job, state):
        self.calls.append(state)
        self.state = state

    def require_budget(self, status):
        """None of it is spent."""

    def retry(self, job):
        self.calls.append("retry")
        self.state = JobState.RUNNING


@pytest.mark.parametrize(
    ("state", "calls", "after"),
    [
        (JobState.RUNNING, [], JobState.RUNNING),
        (JobState.DONE, [], JobState.DONE),
        (JobState.PAUSED, [JobState.RUNNING], JobState.RUNNING),
        (JobState.CANCELLED, [JobState.RUNNING], JobState.RUNNING),
        (JobState.FAILED, ["retry"], JobState.RUNNING),
    ],
)
def test_running_a_job_takes_it_up_again(state, calls, after):
    ledger = Ledger(state)
    assert take_up(ledger, "job").state is after
    assert ledger.calls == calls


def test_a_missing_engine_package_is_said_before_a_worker_starts(monkeypatch):
    monkeypatch.setattr(needed_packages, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"torch.*pip install 'parquetry\[torch\]'") as caught:
        require_engine("auto")
    assert caught.value.exit_code == 3
    with pytest.raises(MissingPackageError, match=r"parquetry\[onnx\]"):
        require_engine("onnxruntime")
    with pytest.raises(MissingPackageError, match=r"parquetry\[optimum\]"):
        require_engine("optimum")


def test_so_is_a_missing_package_of_its_quantization_or_attention(monkeypatch):
    monkeypatch.setattr(
        needed_packages, "find_spec", lambda name: None if name in ("bitsandbytes", "flash_attn") else 1
    )
    require_model(ModelSpec(id="m"))
    with pytest.raises(MissingPackageError, match=r"model.quantization nf4.*bitsandbytes.*parquetry\[gpu\]"):
        require_model(ModelSpec(id="m", quantization="nf4"))
    with pytest.raises(MissingPackageError, match=r"flash_attn.*parquetry\[flash\]"):
        require_model(ModelSpec(id="m", attention="flash_attention_2"))


@pytest.mark.parametrize("backend", ["optimum", "vllm"])
def test_a_worker_does_not_serve_a_queue_it_could_only_fail(backend, monkeypatch):
    monkeypatch.setattr(needed_packages, "find_spec", lambda name: None)
    check_queues(("default",))
    with pytest.raises(MissingPackageError, match=rf"parquetry\[{backend}\]") as caught:
        check_queues(("default", backend))
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("backend", ["optimum", "vllm"])
def test_a_worker_with_the_package_serves_its_queue(backend, monkeypatch):
    monkeypatch.setattr(needed_packages, "find_spec", lambda name: object())
    check_queues((backend,))


def finished(**changes):
    fields = {"status": job_status(state=JobState.DONE, rows_done=1000), "rows_added": 600, "seconds": 60.0}
    return FinishedRun(**{**fields, "log": None, "ledger": None, "url": "", **changes})


def head_of(finished):
    return headline(finished.status, finished)


def test_the_headline_of_a_run():
    text = head_of(finished(status=job_status(state=JobState.DONE, rows_done=1000, active_seconds=50.0)))
    assert "is done: 1,000 of 1,000 rows, 3 of them error rows, 12,000 tokens in 1 min 00 s" in text
    assert ": 20 rows/s" in text
    assert "in the 50 s of computing" in text


def test_whoever_watched_is_told_the_same():
    assert headline(finished().status) == head_of(finished(seconds=100.0))


def test_the_headline_of_a_run_that_found_all_done():
    assert "nothing was computed" in head_of(finished(rows_added=0))
    failed = finished(rows_added=0, status=job_status(state=JobState.FAILED))
    assert "nothing was computed" not in head_of(failed)


def test_json_of_a_run():
    answer = run_as_dict(finished())
    assert (answer["state"], answer["rows_added"], answer["seconds"]) == ("done", 600, 60.0)


def test_a_preview_is_the_same_job_on_fewer_rows_elsewhere():
    spec = JobSpec.parse(
        {
            "task": "embed",
            "input": {"path": "in", "limit": 5},
            "output": {"path": "out"},
            "model": {"id": "m"},
            "notify": ["https://example.com"],
        }
    )
    small = limited(spec, 3, "/tmp/x")
    assert (small.input.limit, small.output.path, small.notify) == (3, "/tmp/x", [])
    assert limited(spec, 9, "/tmp/x").input.limit == 5
    assert small.model == spec.model
