from parquetry.diagnosis import cards
from parquetry.diagnosis.cards import gpu_findings
from parquetry.schemas.finding import Level
from parquetry.workers import packages
from tests.unit.fake_driver import FakeGpu, write_driver, write_program

A100 = FakeGpu(name="NVIDIA A100-SXM4-40GB", uuid="GPU-a", capability="8.0", mebibytes="40960")


def named(findings, name):
    return [finding for finding in findings if finding.name == name]


def installed(monkeypatch, *names):
    for module in (cards, packages):
        monkeypatch.setattr(module, "find_spec", lambda name: name if name in names else None)


def test_gpus_are_named(driver):
    write_driver(driver, FakeGpu(), FakeGpu(uuid="GPU-b"))
    (finding,) = named(gpu_findings(), "gpu")
    assert finding.level is Level.OK
    assert finding.text.count("NVIDIA H100 80GB HBM3 (80 GiB, driver 570.1)") == 2


def test_a_broken_driver_is_unusable_and_its_cards_are_not_guessed_at(driver):
    write_program(driver, "#!/bin/sh\necho out of luck; exit 9\n")
    (finding,) = gpu_findings()
    assert (finding.name, finding.level) == ("gpu", Level.UNUSABLE)
    assert "out of luck" in finding.text
    assert "driver" in finding.fix


def test_a_card_tells_what_it_can_do_and_what_is_slow_on_it(driver, monkeypatch):
    write_driver(driver, A100, FakeGpu(**{**vars(A100), "uuid": "GPU-b"}))
    installed(monkeypatch, "torch", "bitsandbytes")
    findings = list(gpu_findings())
    (quantization,) = named(findings, "quantization")
    assert "NVIDIA A100-SXM4-40GB: int8, nf4, fp4;" in quantization.text
    assert "not fp8: it needs a CUDA card of compute capability 8.9 or newer" in quantization.text
    assert "not int8-weight-only: it needs torchao" in quantization.text
    assert quantization.fix == "for the rest: pip install 'parquetry[gpu]'"
    (attention,) = named(findings, "attention")
    assert "auto, eager, sdpa, sdpa-efficient, sdpa-math, sdpa-cudnn, triton;" in attention.text
    assert "not flash_attention_2: it needs flash-attn;" in attention.text
    assert "not flash_attention_3: it needs a card of compute capability 9.0" in attention.text
    assert attention.fix == "for the rest: pip install 'parquetry[flash]'"
    slow = named(findings, "speed")
    assert [finding.level for finding in slow] == [Level.WARNING] * 3
    assert "int8 saves memory and costs time: 0.15 times" in slow[0].text


def test_a_cpu_can_do_less_and_is_not_warned_of_cards(driver, monkeypatch):
    monkeypatch.setattr(cards, "find_spec", lambda name: name)
    findings = list(gpu_findings())
    assert [finding.name for finding in findings] == ["gpu", "quantization", "attention"]
    assert "none visible" in findings[0].text
    assert "CPU: auto, eager, sdpa, sdpa-flash, sdpa-math;" in findings[2].text
    assert "not triton: it needs a CUDA card, and this worker runs on a CPU" in findings[2].text


def test_without_torch_engines_are_not_spoken_of(driver, monkeypatch):
    write_driver(driver, A100)
    installed(monkeypatch)
    assert [finding.name for finding in gpu_findings()] == ["gpu"]
