"""Which checkpoints of 4 bits our own layers read, and why not the others."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from parquetry.schemas.errors import MissingPackageError, UnsupportedQuantizationError
from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers import packages
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.checkpoint.tensor_headers import TensorHeader
from parquetry.workers.loading.needs import LoadingNeeds
from parquetry.workers.loading.quantization.footprint import loaded_bytes, num_weights
from parquetry.workers.loading.quantization.four_bit_scheme import FourBitScheme, four_bit_obstacle, four_bit_scheme
from parquetry.workers.loading.quantization.stored_quantization import check_stored
from tests.unit.workers.loading.spec_cases import CPU, H100, write_headers
from tests.unit.workers.tiny_model import make_model

#: as published checkpoints have them in config.json
GPTQ = {
    "quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True, "sym": True, "damp_percent": 0.1,
    "modules_in_block_to_quantize": [["self_attn.q_proj"]], "dynamic": {"-:.*down.*": {}},
}  # fmt: skip
AWQ = {
    "quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "GEMM", "backend": "autoawq",
    "modules_to_not_convert": ["visual"],
}  # fmt: skip
WEIGHTS = {
    "num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 128, "actorder": "weight",
    "dynamic": False, "block_structure": None,
}  # fmt: skip
COMPRESSED = {
    "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
    "config_groups": {"group_0": {"targets": ["Linear"], "weights": WEIGHTS, "input_activations": None}},
    "ignore": ["lm_head", "re:.*vision.*"], "sparsity_config": {}, "kv_cache_scheme": None,
}  # fmt: skip
SECTIONS = {"gptq": GPTQ, "awq": AWQ, "compressed-tensors": COMPRESSED}


def config(section: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"quantization_config": {**section, **changes}}


def compressed(**weights: Any) -> dict[str, Any]:
    """compressed-tensors with other weights."""
    group = {**COMPRESSED["config_groups"]["group_0"], "weights": {**WEIGHTS, **weights}}
    return config(COMPRESSED, config_groups={"group_0": group})


READ = [
    (config(GPTQ), FourBitScheme("gptq", 128, 1)),
    (config(GPTQ, checkpoint_format="gptq_v2"), FourBitScheme("gptq", 128, 0)),
    (config(GPTQ, group_size=-1), FourBitScheme("gptq", -1, 1)),
    (config(GPTQ, dynamic={"+:.*q_proj.*": {"bits": 4, "group_size": 128}}), FourBitScheme("gptq", 128, 1)),
    ({"text_config": config(GPTQ)}, FourBitScheme("gptq", 128, 1)),
    (config(AWQ), FourBitScheme("awq", 128)),
    (config({"quant_method": "awq", "w_bit": 4, "q_group_size": 64}), FourBitScheme("awq", 64)),
    (config(COMPRESSED), FourBitScheme("compressed-tensors", 128)),
    (compressed(strategy="channel", group_size=None, symmetric=False), FourBitScheme("compressed-tensors", -1)),
]
NOT_READ = [
    (config(GPTQ, bits=8), "weights have 8 bits"),
    (config(GPTQ, bits=None), "does not tell the bits"),
    (config(GPTQ, group_size=8), "groups of 8 are no multiple of 16"),
    (config(GPTQ, group_size=40), "groups of 40 are no multiple of 16"),
    (config(GPTQ, group_size=0), "groups of 0 are no multiple of 16"),
    (config(GPTQ, group_size="many"), "quantization_config cannot be read"),
    (config(GPTQ, checkpoint_format="marlin"), "format is marlin"),
    (config(GPTQ, is_marlin_format=True), "format is marlin"),
    (config(GPTQ, dynamic={r".*\.down_proj.*": {"bits": 8}}), r"modules of \.\*\\\.down_proj\.\* have settings"),
    (config(GPTQ, dynamic={"+:.*": {"group_size": 64}}), "have settings of their own"),
    (config(AWQ, bits=8), "weights have 8 bits"),
    (config(AWQ, version="gemv"), "version is gemv"),
    (config(AWQ, version="marlin"), "version is marlin"),
    (config(AWQ, backend="llm-awq"), "version is llm-awq"),
    (config(AWQ, zero_point=False), "has no zero points"),
    (config(COMPRESSED, format="float-quantized"), "format is float-quantized"),
    (config(COMPRESSED, format="marlin-24"), "format is marlin-24"),
    (config(COMPRESSED, format=None), "format is not told"),
    (config(COMPRESSED, sparsity_config={"format": "sparse-24-bitmask"}), "stored sparse"),
    (config(COMPRESSED, transform_config={"config_groups": {"R1": {}}}), "activations are transformed"),
    (config(COMPRESSED, config_groups=["Linear"]), "quantization_config cannot be read"),
    (compressed(num_bits=8), "weights have 8 bits"),
    (compressed(type="float"), "weights are float by group"),
    (compressed(strategy="tensor"), "weights are int by tensor"),
]


@pytest.mark.parametrize(("told", "scheme"), READ)
def test_what_is_read(told: dict[str, Any], scheme: FourBitScheme) -> None:
    assert four_bit_scheme(told, {}) == scheme and four_bit_obstacle(told, {}) is None


@pytest.mark.parametrize(("told", "reason"), NOT_READ)
def test_what_is_not_read_keeps_its_package_and_says_why(monkeypatch, told: dict[str, Any], reason: str) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda _: None)
    assert four_bit_scheme(told, {}) is None
    with pytest.raises(MissingPackageError, match=reason):
        check_stored(told, H100)
    monkeypatch.setattr(packages, "find_spec", lambda _: object())
    check_stored(told, H100)


@pytest.mark.parametrize("bits", [8, 4])
def test_quantized_activations_are_not_read(bits: int) -> None:
    told = copy.deepcopy(config(COMPRESSED))
    group = told["quantization_config"]["config_groups"]["group_0"]
    group["input_activations"] = {"num_bits": bits, "type": "int", "dynamic": True}
    assert four_bit_obstacle(told, {}) == "its activations are quantized"


def test_groups_of_different_sizes_are_not_read() -> None:
    told = copy.deepcopy(config(COMPRESSED))
    groups = told["quantization_config"]["config_groups"]
    groups["group_1"] = {"targets": ["re:.*down.*"], "weights": {**WEIGHTS, "group_size": 32}}
    assert four_bit_obstacle(told, {}) == "its modules have groups of different sizes (32, 128)"


def test_numbered_experts_are_not_read() -> None:
    name = "model.layers.0.mlp.experts.3.up_proj.qweight"
    headers = {name: TensorHeader("I32", (16, 64)), "model.layers.0.mlp.shared.qweight": TensorHeader("I32", (16, 64))}
    assert four_bit_obstacle(config(GPTQ), headers) == f"its experts are quantized, such as {name}"


def test_other_methods_have_no_obstacle() -> None:
    assert four_bit_obstacle({}, {}) is None and four_bit_scheme({}, {}) is None
    assert four_bit_obstacle(config({"quant_method": "fp8"}), {}) is None


@pytest.mark.parametrize("method", SECTIONS)
@pytest.mark.parametrize("card", [CPU, H100])
def test_what_is_read_needs_no_package(monkeypatch, method: str, card) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda _: None)
    check_stored(config(SECTIONS[method]), card)


def test_modules_are_those_with_codes_in_the_files() -> None:
    names = {"a.q.qweight", "a.q.scales", "a.k.weight", "a.v.qweight"}
    headers = {name: TensorHeader("I32", (4, 4)) for name in sorted(names)}
    assert FourBitScheme("awq", 32).modules(headers) == ["a.q", "a.v"]


@pytest.mark.parametrize("backend", ["onnxruntime", "optimum"])
def test_other_runtimes_are_refused_at_submit(tmp_path, backend: str) -> None:
    folder = make_model(tmp_path / "m", **config(AWQ))
    spec = ModelSpec(id=str(folder), backend=backend)
    with pytest.raises(UnsupportedQuantizationError, match=f"model.backend {backend} makes no graph"):
        LoadingNeeds(spec, Checkpoint.resolve(spec)).check()


def test_vllm_reads_them_itself(tmp_path) -> None:
    folder = make_model(tmp_path / "m", **config(AWQ))
    spec = ModelSpec(id=str(folder), backend="vllm")
    needs = LoadingNeeds(spec, Checkpoint.resolve(spec))
    needs.check()
    assert needs.four_bit is None


def test_zero_points_are_counted_as_numbers(tmp_path) -> None:
    """A layer of 256 inputs and 512 outputs in groups of 128: codes of half a byte, scales and zero points of two."""
    folder = make_model(tmp_path / "m", **config(AWQ), dtype="float16")
    tensors = {"q.qweight": ("I32", (256, 64)), "q.qzeros": ("I32", (2, 64)), "q.scales": ("F16", (2, 512))}
    write_headers(folder / "model.safetensors", tensors)
    spec = ModelSpec(id=str(folder))
    assert LoadingNeeds(spec, Checkpoint.resolve(spec)).needed_bytes("cuda") == 256 * 512 // 2 + 2 * 2 * (2 * 512)
    headers = {name: TensorHeader(*header) for name, header in tensors.items()}
    assert sum(num_weights(name, header) for name, header in headers.items()) == 256 * 512
    assert loaded_bytes(headers, dtype="float16") == 256 * 512 // 2 + 2 * 64 * 4 + 2 * (2 * 512)
