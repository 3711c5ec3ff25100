import stat
from types import SimpleNamespace

import pytest

from parquetry.diagnosis import services
from parquetry.diagnosis.services import broker, engines, storage
from parquetry.schemas.finding import Level
from parquetry.schemas.progress.status import EngineStats, WorkerStatus
from parquetry.terminal.job_tables import worker_warnings

pytestmark = pytest.mark.usefixtures("fresh_settings")


def test_the_storage_probe_leaves_nothing(tmp_path):
    (finding,) = storage(str(tmp_path / "a" / "out"))
    assert finding.level is Level.OK
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_folder_stays(tmp_path):
    (tmp_path / "out").mkdir()
    (finding,) = storage(str(tmp_path / "out"))
    assert finding.level is Level.OK
    assert stat.S_ISDIR((tmp_path / "out").stat().st_mode)


def test_an_unusable_location_is_a_finding():
    (finding,) = storage("ftp://host/x")
    assert finding.level is Level.UNUSABLE
    assert "scheme" in finding.text


def test_an_unreachable_broker_is_a_finding_without_its_password(monkeypatch):
    monkeypatch.setenv("PARQUETRY_BROKER_URL", "redis://user:secret@127.0.0.1:1/0")
    (finding,) = broker()
    assert finding.level is Level.UNUSABLE
    assert "127.0.0.1:1" in finding.text
    assert "secret" not in finding.text


def test_without_a_broker_the_server_of_run_is_tried():
    (finding,) = broker()
    assert finding.level is Level.OK
    assert "`run` starts its own" in finding.text


def test_engines_that_had_to_do_without_something_are_warnings(monkeypatch):
    """The line of `parquetry jobs` says the same."""
    reason = "runs without: compiled layers (no compiler; cost: 2.7 times)"
    worker = WorkerStatus(
        worker="w-1", host="h", device="cuda:0", queue="default", shards_in_flight=2, model="m", seen=0.0,
        engine=EngineStats(slowed_by=(reason,)),
    )  # fmt: skip
    monkeypatch.setenv("PARQUETRY_BROKER_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setattr(services, "open_ledger", lambda: SimpleNamespace(workers=lambda: [worker]))
    (finding,) = engines()
    assert (finding.name, finding.level, finding.text) == ("worker w-1", Level.WARNING, reason)
    assert worker_warnings([worker]) == [f"warning: w-1: {reason}"]
