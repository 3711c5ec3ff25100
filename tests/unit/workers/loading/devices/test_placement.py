"""Devices: one where the weights fit, several where they do not, a sentence where nothing holds them."""

from __future__ import annotations

import pytest

from parquetry.schemas.errors import ExitCode, InvalidValueError, ModelTooLargeError, UnsupportedQuantizationError
from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.loading.devices.placement import choose_placement, memory_limit, parse_limits
from tests.unit.workers.loading.spec_cases import CPU, GIB, H100

ONE = {0: H100, "cpu": CPU}
TWO = {0: H100, 1: H100, "cpu": CPU}


def model(**options: object) -> ModelSpec:
    return ModelSpec(id="m", **options)


def test_a_model_that_fits_goes_to_one_device() -> None:
    placement = choose_placement(model(), 16 * GIB, TWO, device="cuda:0")
    assert placement.device_map == {"": "cuda:0"} and not placement.is_spread


def test_a_larger_one_is_spread_over_the_cards() -> None:
    placement = choose_placement(model(), 100 * GIB, TWO, device="cuda:0")
    assert placement.is_spread and placement.max_memory == {0: 72 * GIB, 1: 72 * GIB, "cpu": int(57.6 * GIB)}


def test_the_cpu_is_the_last_resort() -> None:
    assert choose_placement(model(), 100 * GIB, ONE, device="cuda:0").is_spread


def test_only_listed_devices_are_used() -> None:
    limits = {"0": "20GiB", "1": "20GiB"}
    placement = choose_placement(model(max_memory=limits), 30 * GIB, TWO, device="cuda:0")
    assert placement.max_memory == {0: 20 * GIB, 1: 20 * GIB, "cpu": 0}


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ModelTooLargeError) as caught:
        choose_placement(model(max_memory={"0": "10GiB"}), 15 * GIB, TWO, device="cuda:0")
    message = str(caught.value)
    assert "15.0 GiB" in message and "cuda:0 may hold 10.0 GiB" in message and "5.0 GiB are missing" in message
    assert "nf4" in message and caught.value.exit_code == ExitCode.BAD_INPUT


def test_a_limit_cannot_exceed_the_card() -> None:
    with pytest.raises(ModelTooLargeError, match=r"80\.0 GiB"):
        choose_placement(model(max_memory={"0": "500GiB"}), 100 * GIB, ONE, device="cuda:0")


def test_without_a_device_map_one_card_must_hold_it() -> None:
    with pytest.raises(ModelTooLargeError, match="cuda:0 may hold"):
        choose_placement(model(device_map=None), 100 * GIB, TWO, device="cuda:0")


def test_a_cpu_worker_has_its_memory_alone() -> None:
    assert choose_placement(model(), GIB, {"cpu": CPU}).device_map == {"": "cpu"}
    with pytest.raises(ModelTooLargeError, match="cpu may hold"):
        choose_placement(model(), 100 * GIB, {"cpu": CPU})


def test_quantized_weights_are_not_offloaded() -> None:
    with pytest.raises(UnsupportedQuantizationError, match="offloaded"):
        choose_placement(model(quantization="nf4"), 100 * GIB, ONE, device="cuda:0")


@pytest.mark.parametrize("limits", [{"gpu": "1GiB"}, {"cuda:0": "1GiB"}, {"0": "much"}])
def test_limits_that_cannot_be_read_are_refused(limits: dict[str, str]) -> None:
    with pytest.raises(InvalidValueError, match=r"model\.max_memory"):
        parse_limits(model(max_memory=limits))


def test_a_limit_is_that_of_the_engines_card() -> None:
    limited = model(max_memory={"1": "2GiB", "cpu": "1GiB"})
    assert memory_limit(limited, "cuda:1") == 2 * GIB
    assert memory_limit(limited, "cuda:0") == 0
    assert memory_limit(limited, "cpu") is None
    assert memory_limit(model(), "cuda:0") is None
