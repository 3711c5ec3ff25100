"""Which engines a node starts."""

from __future__ import annotations

import pytest

from parquetry.schemas.spec.job import ModelSpec
from parquetry.tasks.node.devices import GpusPerEngineError, devices
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.gpus import GpuQueryError
from parquetry.workers.process.child import cuda_devices, device_within
from tests.unit.fake_driver import FakeGpu, write_driver, write_program


@pytest.mark.parametrize(
    ("gpus", "size", "cpu_engines", "names"),
    [
        (("0", "1"), 1, None, ["cuda:0", "cuda:1"]),
        (("0", "1", "2", "3"), 2, None, ["cuda:0,1", "cuda:2,3"]),
        (("GPU-8a56",), 1, None, ["cuda:GPU-8a56"]),
        ((), 1, None, ["cpu"]),
        (None, 1, 2, ["cpu", "cpu"]),
        (("0",), 1, 1, ["cuda:0", "cpu"]),
    ],
)
def test_devices(gpus, size: int, cpu_engines, names: list[str]):
    assert devices(gpus, size, cpu_engines) == names


def test_gpus_that_do_not_fit_the_groups_are_refused():
    with pytest.raises(GpusPerEngineError, match=r"3 GPUs .* device groups of 2"):
        devices(("0", "1", "2"), 2, None)


@pytest.mark.parametrize(
    ("visible", "names"),
    [(None, ["cuda:0", "cuda:1"]), ("", ["cpu"]), ("1,0", ["cuda:0", "cuda:1"]), ("GPU-b", ["cuda:0"])],
)
def test_all_visible(driver, monkeypatch, visible: str | None, names: list[str]):
    write_driver(driver, FakeGpu(uuid="GPU-a"), FakeGpu(uuid="GPU-b"))
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices(None, 1, None) == names


def test_a_machine_without_a_driver_serves_with_its_cpu(driver):
    assert devices(None, 1, None) == ["cpu"]


def test_a_driver_is_asked_only_where_it_must_be(driver):
    write_program(driver, "#!/bin/sh\necho out of luck; exit 9\n")
    assert devices((), 1, None) == devices(None, 1, 1) == ["cpu"]
    assert devices(("0",), 1, None) == ["cuda:0"]
    with pytest.raises(GpuQueryError, match="out of luck"):
        devices(None, 1, None)


@pytest.mark.parametrize(
    ("device", "visible", "gpus", "within", "ranks"),
    [
        ("cpu", None, None, "cpu", ("cpu",)),
        ("cpu:0,1", None, None, "cpu:0,1", ("cpu", "cpu")),
        ("cuda:3", None, "3", "cuda:0", ("cuda:0",)),
        ("cuda:2,3", None, "2,3", "cuda:0,1", ("cuda:0", "cuda:1")),
        ("cuda:0,1", "3,5", "3,5", "cuda:0,1", ("cuda:0", "cuda:1")),
        ("cuda:GPU-8a56", "GPU-8a56", "GPU-8a56", "cuda:0", ("cuda:0",)),
    ],
)
def test_what_an_engine_calls_its_devices(monkeypatch, device: str, visible, gpus, within: str, ranks: tuple):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert cuda_devices(device) == gpus
    assert device_within(device) == within
    assert EngineSpec(task="generate", model_path="m", model=ModelSpec(id="m"), device=within).devices == ranks
