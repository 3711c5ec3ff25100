import json
import socket

import pytest

from parquetry.diagnosis import doctor
from parquetry.diagnosis.doctor import examine, is_usable, print_findings, worker_here
from parquetry.schemas.finding import Finding, Level
from tests.unit.monitor.made_statuses import worker_status


def test_findings_as_json_and_as_text(capsys):
    findings = [Finding("a", Level.OK, "fine"), Finding("b", Level.UNUSABLE, "broken\x1b[2J", "mend it")]
    print_findings(findings, as_json=True)
    assert json.loads(capsys.readouterr().out)["usable"] is False
    print_findings(findings, as_json=False)
    text = capsys.readouterr().out
    assert "-> mend it" in text
    assert "\x1b[2J" not in text


def test_a_warning_is_usable():
    assert is_usable([Finding("a", Level.WARNING, "hm")])


def test_the_health_of_this_hosts_worker(monkeypatch):
    class Workers:
        found = (worker_status(host="elsewhere"),)

        def workers(self):
            return list(self.found)

    monkeypatch.setattr(doctor, "open_ledger", Workers)
    assert not is_usable(worker_here())
    monkeypatch.setattr(Workers, "found", (worker_status(host=socket.gethostname()),))
    assert is_usable(worker_here())


@pytest.mark.usefixtures("fresh_settings")
def test_a_look_at_everything_names_each_thing_once(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("PARQUETRY_BROKER_URL", "redis://user:secret@127.0.0.1:1/0")
    found = {finding.name: finding for finding in examine(str(tmp_path / "out"))}
    assert {"python", "packages", "engine", "gpu", "onnx runtime", "state folder", "broker", "storage"} <= set(found)
    assert found["broker"].level is Level.UNUSABLE
    assert found["storage"].level is Level.OK
    assert not is_usable(found.values())
