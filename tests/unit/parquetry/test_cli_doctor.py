import json
import socket
import stat

import pytest

from parquetry import doctor, engine_findings
from parquetry.doctor import Finding, Level, is_usable, print_findings
from parquetry.schemas.errors import BrokerUnreachableError
from parquetry.schemas.settings import settings
from parquetry.workers import gpus, packages
from parquetry.workers.gpus import GpuQueryError
from tests.unit.monitor.status_samples import worker_status


@pytest.fixture(autouse=True)
def fresh_settings(monkeypatch):
    monkeypatch.delenv("PARQUETRY_BROKER_URL", raising=False)
    settings.cache_clear()
    yield
    settings.cache_clear()


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Puts a program called nvidia-smi on the PATH."""

    def install(script):
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    return install


def only(findings):
    (finding,) = findings
    return finding


def test_gpus_are_named(nvidia_smi):
    nvidia_smi("echo 'NVIDIA H100, 81559 MiB, 570.1'; echo 'NVIDIA H100, 81559 MiB, 570.1'")
    finding = only(doctor._gpus())
    assert finding.level is Level.OK
    assert finding.text.count("H100") == 2


def test_a_broken_driver_is_unusable(nvidia_smi):
    nvidia_smi("echo no devices; exit 9")
    with pytest.raises(GpuQueryError, match="no devices"):
        gpus.visible_names()
    assert only(doctor._gpus()).level is Level.UNUSABLE


def test_hidden_gpus_are_not_asked_for(nvidia_smi, monkeypatch):
    nvidia_smi("exit 9")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus.visible_names() == []


def test_no_torch_is_a_warning_that_says_what_to_install(monkeypatch):
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    finding = only(doctor._engine_packages())
    assert finding.level is Level.WARNING
    assert "parquetry[torch]" in finding.fix


def test_a_state_folder_below_a_file_is_unusable(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PARQUETRY_STATE_DIR", str(tmp_path / "file" / "state"))
    assert only(doctor._state_dir()).level is Level.UNUSABLE


def test_a_state_folder_yet_to_be_made_is_fine(tmp_path, monkeypatch):
    monkeypatch.setenv("PARQUETRY_STATE_DIR", str(tmp_path / "a" / "b"))
    assert only(doctor._state_dir()).level is Level.OK


def test_the_storage_probe_leaves_nothing(tmp_path):
    assert only(doctor._storage(str(tmp_path / "a" / "out"))).level is Level.OK
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_folder_stays(tmp_path):
    (tmp_path / "out").mkdir()
    assert only(doctor._storage(str(tmp_path / "out"))).level is Level.OK
    assert stat.S_ISDIR((tmp_path / "out").stat().st_mode)


def test_an_unusable_location_is_a_finding():
    finding = only(doctor._storage("ftp://host/x"))
    assert finding.level is Level.UNUSABLE
    assert "scheme" in finding.text


def test_an_unreachable_broker_is_named_without_its_password(monkeypatch):
    monkeypatch.setenv("PARQUETRY_BROKER_URL", "redis://user:secret@127.0.0.1:1/0")
    finding = only(doctor._broker())
    assert finding.level is Level.UNUSABLE
    assert "127.0.0.1:1" in finding.text
    assert "secret" not in finding.text


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
    assert not is_usable(doctor.worker_here())
    monkeypatch.setattr(Workers, "found", (worker_status(host=socket.gethostname()),))
    assert is_usable(doctor.worker_here())


def test_a_broken_look_is_a_finding_not_a_crash():
    def look():
        raise BrokerUnreachableError(url="redis://h", reason="refused")
        yield

    assert only(doctor._guarded("broker", look)).level is Level.UNUSABLE


def named(findings, name):
    return [finding for finding in findings if finding.name == name]


def test_a_card_tells_what_it_can_do_and_what_is_slow_on_it(nvidia_smi, monkeypatch):
    nvidia_smi("echo 'NVIDIA A100-SXM4-40GB, 8.0, 40960'; echo 'NVIDIA A100-SXM4-40GB, 8.0, 40960'")
    installed = {"torch", "bitsandbytes"}
    for module in (engine_findings, packages):
        monkeypatch.setattr(module, "find_spec", lambda name: name if name in installed else None)
    findings = list(engine_findings.engine_findings())
    quantization = only(named(findings, "quantization"))
    assert "NVIDIA A100-SXM4-40GB: int8, nf4, fp4;" in quantization.text
    assert "not fp8: it needs a CUDA card of compute capability 8.9 or newer" in quantization.text
    assert "not int8-weight-only: it needs torchao" in quantization.text
    assert quantization.fix == "for the rest: pip install 'parquetry[gpu]'"
    attention = only(named(findings, "attention"))
    assert "auto, eager, sdpa, sdpa-efficient, sdpa-math, sdpa-cudnn, triton;" in attention.text
    assert "not flash_attention_2: it needs flash-attn;" in attention.text
    assert "not flash_attention_3: it needs a card of compute capability 9.0" in attention.text
    assert attention.fix == "for the rest: pip install 'parquetry[flash]'"
    slow = named(findings, "speed")
    assert [finding.level for finding in slow] == [Level.WARNING] * 3
    assert "int8 saves memory and costs time: 0.15 times" in slow[0].text


def test_a_cpu_can_do_less_and_is_not_warned_of_cards(monkeypatch):
    monkeypatch.setattr(engine_findings, "visible_cards", list)
    monkeypatch.setattr(engine_findings, "find_spec", lambda name: name)
    findings = list(engine_findings.engine_findings())
    assert [finding.name for finding in findings] == ["quantization", "attention"]
    assert "CPU: auto, eager, sdpa, sdpa-flash, sdpa-math;" in findings[1].text
    assert "not triton: it needs a CUDA card, and this worker runs on a CPU" in findings[1].text


def test_without_torch_engines_are_not_spoken_of(monkeypatch):
    monkeypatch.setattr(engine_findings, "find_spec", lambda name: None)
    assert list(engine_findings.engine_findings()) == []


def test_a_driver_that_knows_no_capabilities_is_not_guessed_at(nvidia_smi):
    nvidia_smi("echo 'Field is not a valid field to query'")
    with pytest.raises(GpuQueryError, match="not a valid field"):
        gpus.visible_cards()
    assert list(engine_findings.engine_findings()) == []
