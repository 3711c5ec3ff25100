"""What a process may use of the machine's GPUs, told by a program that answers as the driver's own does."""

from __future__ import annotations

import pytest

from parquetry.workers.card import Card, cpu_card
from parquetry.workers.gpus import GpuQueryError, smallest_gpu_bytes, visible_gpus
from tests.unit.fake_driver import FakeGpu, write_driver, write_program

BIG = FakeGpu()
SMALL = FakeGpu(name="NVIDIA L4", uuid="GPU-5d77aaaa", capability="8.9", mebibytes="23034")
CUT = FakeGpu(
    name="NVIDIA A100-SXM4-80GB",
    uuid="GPU-e91e0000",
    capability="8.0",
    mebibytes="81920",
    instances={"3g.40gb": "MIG-c6d4f1ef", "1g.10gb+me": "MIG-1f0c3a55"},
)


def names(gpus):
    return [gpu.name.removeprefix("NVIDIA ") for gpu in gpus]


def test_every_gpu_is_there_with_name_memory_and_driver(driver):
    write_driver(driver, BIG, SMALL)
    first, second = visible_gpus()
    assert (first.name, first.total_bytes, first.driver) == ("NVIDIA H100 80GB HBM3", 81559 << 20, "570.1")
    assert second.card == Card("cuda", "NVIDIA L4", (8, 9), 23034 << 20)
    assert smallest_gpu_bytes() == 23034 << 20


def test_no_driver_means_no_gpu(driver):
    assert visible_gpus() == []
    assert smallest_gpu_bytes() is None


@pytest.mark.parametrize("code", [0, 6])
def test_a_driver_without_devices_means_no_gpu(driver, code):
    write_program(driver, f"#!/bin/sh\necho No devices were found\nexit {code}\n")
    assert visible_gpus() == []


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("0", ["H100 80GB HBM3"]),
        ("1,0", ["L4", "H100 80GB HBM3"]),
        (" 1 , 2", ["L4", "A100-SXM4-80GB"]),
        ("GPU-e91e", ["A100-SXM4-80GB"]),
        ("GPU-5d77aaaa,GPU-5d5ba0d6", ["L4", "H100 80GB HBM3"]),
        # the beginning of two UUIDs names neither
        ("GPU-5d", []),
        # nothing counts from the first name on that is none
        ("0,7,1", ["H100 80GB HBM3"]),
        ("1,-1,0", ["L4"]),
        ("NoDevFiles", []),
        ("", []),
        # as in CUDA, a GPU named twice hides them all
        ("0,1,0", []),
        ("MIG-1f0c3a55", ["A100-SXM4-80GB MIG 1g.10gb+me"]),
        ("MIG-c6d4,MIG-1f0c", ["A100-SXM4-80GB MIG 3g.40gb", "A100-SXM4-80GB MIG 1g.10gb+me"]),
        ("MIG-none", []),
    ],
)
def test_names_count_as_they_do_for_cuda(driver, monkeypatch, visible, expected):
    write_driver(driver, BIG, SMALL, CUT)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert names(visible_gpus()) == expected


def test_a_mig_instance_has_the_size_in_its_name_and_the_rest_of_its_gpu(driver, monkeypatch):
    write_driver(driver, BIG, CUT)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1f0c3a55")
    (part,) = visible_gpus()
    assert part.card == Card("cuda", "NVIDIA A100-SXM4-80GB MIG 1g.10gb+me", (8, 0), 10 * 10**9)
    assert smallest_gpu_bytes() == 10 * 10**9


def test_instances_named_by_the_older_drivers(driver, monkeypatch):
    write_driver(driver, FakeGpu(uuid="GPU-e91e", instances={"2g.10gb": "MIG-GPU-e91e/7/0"}))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-GPU-e91e/7/0")
    assert names(visible_gpus()) == ["H100 80GB HBM3 MIG 2g.10gb"]


def test_memory_shared_with_the_machine_is_the_machines(driver):
    write_driver(driver, FakeGpu(name="NVIDIA GB10", mebibytes="[N/A]", capability="12.1"))
    assert smallest_gpu_bytes() == cpu_card().total_bytes


def test_hidden_gpus_are_not_asked_for(driver, monkeypatch):
    write_program(driver, "#!/bin/sh\nexit 9\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo couldn\\'t communicate with the driver.; exit 9", "nvidia-smi failed: couldn't communicate"),
        ("exit 9", "exit code 9"),
        ("echo 'Field is not a valid field to query'", "'Field is not a valid field to query' where a GPU"),
        ("echo 'GPU-5d5b, [N/A], 81559, 470.1, NVIDIA H100'", "where a GPU was asked for"),
    ],
)
def test_a_driver_that_cannot_be_asked_is_one_clear_error(driver, script, reason):
    write_program(driver, f"#!/bin/sh\n{script}\n")
    for ask in (visible_gpus, smallest_gpu_bytes):
        with pytest.raises(GpuQueryError, match=f"{reason}.*--gpus none for the CPU") as caught:
            ask()
        assert caught.value.exit_code == 3


def test_a_program_that_does_not_run_is_that_error_too(driver):
    write_program(driver, "#!/no/such/interpreter\n")
    with pytest.raises(GpuQueryError, match="No such file"):
        visible_gpus()
