import pkgutil

import pytest

import parquetry
from parquetry.api import calls as api
from parquetry.api.job import BrokerGoneError, Job, JobTimeoutError
from parquetry.broker import NoBrokerError
from parquetry.local.run import FinishedRun
from parquetry.schemas.errors import InvalidValueError, SpecNotFoundError, UnknownKeyError
from parquetry.schemas.progress.states import JobState
from parquetry.schemas.settings import settings
from tests.unit.monitor.made_statuses import job_status

SPEC = {"task": "embed", "input": {"path": "in"}, "output": {"path": "out"}, "model": {"id": "m"}}


class Ledger:
    """One job that gets through these states, a look at a time."""

    def __init__(self, *states):
        self.states, self.calls = list(states), []

    def status(self, job):
        return job_status(job=job, state=self.states.pop(0) if len(self.states) > 1 else self.states[0])

    def find(self, job):
        return job

    def prioritize(self, job, priority):
        self.calls.append((job, priority))

    def history(self, job):
        return ()

    def set_state(self, job, state):
        self.calls.append((job, state))

    def retry(self, job):
        self.calls.append((job, "retry"))


def test_no_submodule_hides_a_public_name():
    # importing parquetry.x sets the attribute x of the package
    submodules = {module.name for module in pkgutil.iter_modules(parquetry.__path__)}
    assert submodules.isdisjoint(parquetry.__all__)


def test_a_spec_may_be_data_a_path_or_a_spec(tmp_path):
    spec = api.as_spec(SPEC)
    (tmp_path / "job.yaml").write_text("{task: embed, input: {path: in}, output: {path: out}, model: {id: m}}")
    assert api.as_spec(spec) is spec
    assert api.as_spec(tmp_path / "job.yaml") == api.as_spec(str(tmp_path / "job.yaml")) == spec


def test_bad_specs_raise():
    with pytest.raises(UnknownKeyError):
        api.as_spec({**SPEC, "tasks": "embed"})
    with pytest.raises(SpecNotFoundError):
        api.as_spec("none.yaml")


def test_submit_needs_a_broker(monkeypatch):
    monkeypatch.delenv("PARQUETRY_BROKER_URL", raising=False)
    settings.cache_clear()
    with pytest.raises(NoBrokerError):
        parquetry.submit(SPEC)


def test_wait_returns_how_the_job_ended():
    job = Job("j", "out", Ledger(JobState.RUNNING, JobState.PAUSED, JobState.FAILED))
    assert job.wait(poll_s=0).state is JobState.FAILED


def test_following_ends_with_the_end():
    job = Job("j", "out", Ledger(JobState.RUNNING, JobState.PAUSED, JobState.CANCELLED))
    states = [status.state for status in job.follow(poll_s=0)]
    assert states == [JobState.RUNNING, JobState.PAUSED, JobState.CANCELLED]


def test_a_job_is_opened_by_name(monkeypatch):
    ledger = Ledger(JobState.RUNNING)
    monkeypatch.setattr(api, "open_ledger", lambda url: ledger)
    job = parquetry.job("j", broker_url="redis://h")
    assert (job.id, job.output) == ("j", job_status().output)
    job.cancel()
    assert ledger.calls == [("j", JobState.CANCELLED)]


def test_wait_gives_up_after_its_time():
    job = Job("j", "out", Ledger(JobState.RUNNING))
    with pytest.raises(JobTimeoutError, match="still running") as caught:
        job.wait(timeout=0, poll_s=0)
    assert isinstance(caught.value, TimeoutError)


def test_a_job_is_steered_through_its_ledger():
    ledger = Ledger(JobState.RUNNING)
    job = Job("j", "out", ledger)
    job.pause()
    job.resume()
    job.cancel()
    job.retry()
    job.prioritize(0)
    with pytest.raises(InvalidValueError, match="a number from 0"):
        job.prioritize(10)
    wanted = [JobState.PAUSED, JobState.RUNNING, JobState.CANCELLED, "retry", 0]
    assert ledger.calls == [("j", state) for state in wanted]


def test_after_its_own_broker_a_job_knows_its_last_status():
    finished = FinishedRun(
        status=job_status(state=JobState.DONE),
        rows_added=1000,
        seconds=1.0,
        log=None,
        ledger=None,
        url="redis+socket:///gone",
    )
    job = Job("j", "out", None, finished=finished)
    assert job.wait().state is JobState.DONE
    with pytest.raises(BrokerGoneError):
        job.pause()
    assert repr(job) == "Job('j', output='out')"
