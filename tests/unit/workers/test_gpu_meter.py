"""What the driver's program says of a worker's GPUs."""

import pytest

from parquetry.workers.engine_needs import CARD
from parquetry.workers.gpu_meter import MIB, read_use
from parquetry.workers.gpus import Gpu


def gpu(uuid: str) -> Gpu:
    return Gpu("NVIDIA H100 80GB HBM3", uuid, (9, 0), 80 << 30, "580.95")


ANSWER = "GPU-a, 97, 1000, 81559\nGPU-b, 3, 500, 81559\nGPU-c, [N/A], 1, 2\n"


def test_only_the_workers_own_gpus_count():
    use = read_use(ANSWER, [gpu("GPU-a")])
    assert (use.use, use.memory_used_bytes, use.name) == (0.97, 1000 * MIB, "NVIDIA H100 80GB HBM3")


def test_the_gpus_of_a_device_group_are_one():
    use = read_use(ANSWER, [gpu("GPU-a"), gpu("GPU-b")])
    assert (use.use, use.memory_used_bytes) == (0.5, 1500 * MIB)


@pytest.mark.parametrize("answer", ["", "No devices were found", ANSWER, "GPU-z, 1"])
def test_what_the_driver_does_not_tell_is_not_known(answer):
    use = read_use(answer, [gpu("GPU-c"), gpu("MIG-x")])
    assert (use.use, use.memory_used_bytes) == (None, None)


def test_a_machine_without_a_driver_offers_no_card(monkeypatch):
    from parquetry.workers import gpu_meter

    monkeypatch.setattr(gpu_meter, "visible_gpus", list)
    assert gpu_meter.GpuMeter.of("cuda:0") is None
    assert gpu_meter.offered_by("cuda:0") == ()
    monkeypatch.setattr(gpu_meter, "visible_gpus", lambda: [gpu("GPU-a"), gpu("GPU-b")])
    assert CARD in gpu_meter.offered_by("cuda:1")
    assert gpu_meter.offered_by("cpu") == ()
