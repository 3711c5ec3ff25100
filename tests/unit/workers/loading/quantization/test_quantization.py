"""Which quantization runs where, and what it needs."""

from __future__ import annotations

import pytest

from parquetry.schemas.errors import ExitCode, MissingPackageError, UnsupportedQuantizationError
from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers import packages
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.engine_spec import int8_threshold
from parquetry.workers.loading.needs import LoadingNeeds
from parquetry.workers.loading.quantization.quantization import RECIPES, check_options, check_quantization
from parquetry.workers.loading.quantization.stored_quantization import METHODS, check_stored, stored_method
from parquetry.workers.packages import PACKAGES
from tests.unit.workers.loading.spec_cases import A100, CPU, H100, T4
from tests.unit.workers.tiny_model import make_model


def model(quantization: str = "none", **options: object) -> ModelSpec:
    return ModelSpec(id="m", quantization=quantization, **options)


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda _: None)


@pytest.mark.parametrize("card", [CPU, T4, A100])
def test_fp8_is_refused_off_its_cards(card) -> None:
    with pytest.raises(UnsupportedQuantizationError, match=r"compute capability 8\.9") as caught:
        check_quantization(model("fp8"), card)
    assert caught.value.exit_code == ExitCode.BAD_INPUT


def test_fp8_takes_bfloat16_only() -> None:
    with pytest.raises(UnsupportedQuantizationError, match="float16"):
        check_options(model("fp8", dtype="float16"), "float16", stored=None)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_missing_package_is_named(nothing_installed, name: str) -> None:
    with pytest.raises(MissingPackageError, match=RECIPES[name].package):
        check_quantization(model(name), H100)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_checkpoint_is_not_quantized_twice(name: str) -> None:
    with pytest.raises(UnsupportedQuantizationError, match="already quantized"):
        check_options(model(name), "bfloat16", stored="gptq")


@pytest.mark.parametrize(
    ("method", "package"),
    [("gptq", "optimum"), ("awq", "gptqmodel"), ("compressed-tensors", "compressed-tensors")],
)
def test_what_a_stored_quantization_needs_is_named(nothing_installed, method: str, package: str) -> None:
    config = {"quantization_config": {"quant_method": method}}
    assert stored_method(config) == method
    with pytest.raises(MissingPackageError, match=package):
        check_stored(config, H100)


@pytest.mark.parametrize(
    ("method", "card", "is_needed"),
    [("fp8", CPU, False), ("fp8", A100, False), ("fp8", H100, True), ("mxfp4", CPU, False), ("mxfp4", T4, True)],
)
def test_kernels_are_needed_where_they_run(monkeypatch, method: str, card, is_needed: bool) -> None:
    """Elsewhere the weights are expanded."""
    monkeypatch.setattr(packages, "is_installed", lambda module: module != "kernels")
    config = {"quantization_config": {"quant_method": method}}
    if not is_needed:
        check_stored(config, card)
        return
    with pytest.raises(MissingPackageError, match="kernels"):
        check_stored(config, card)


@pytest.mark.parametrize(
    ("method", "card", "reason"),
    [("fbgemm_fp8", A100, "compute capability 9.0 or newer, and NVIDIA A100"), ("eetq", CPU, "needs a CUDA card, and")],
)
def test_a_card_that_cannot_compute_a_method_is_named(method: str, card, reason: str) -> None:
    with pytest.raises(UnsupportedQuantizationError, match=reason):
        check_stored({"quantization_config": {"quant_method": method}}, card)


#: as checkpoints of these methods have it in config.json
STORED: dict[str, dict[str, object]] = {
    # 4 bits in runs of one group are read by our own layers, and need nothing
    "gptq": {"bits": 8, "group_size": 128, "desc_act": True, "sym": True},
    "awq": {"bits": 4, "group_size": 128, "zero_point": True, "version": "gemv"},
    "compressed-tensors": {"format": "float-quantized", "quantization_status": "compressed", "config_groups": {}},
    "fp8": {"activation_scheme": "dynamic", "weight_block_size": [128, 128], "fmt": "e4m3"},
    "mxfp4": {"modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]},
    "bitsandbytes": {"load_in_4bit": True, "load_in_8bit": False, "bnb_4bit_quant_type": "nf4"},
    "aqlm": {"in_group_size": 8, "nbits_per_codebook": 16, "num_codebooks": 1, "out_group_size": 1},
    "eetq": {"weights": "int8"},
}


@pytest.mark.parametrize("method", STORED)
def test_a_method_needs_what_transformers_says_it_needs(monkeypatch, method: str) -> None:
    """On this machine's CPU, with the packages that are installed here: refused by both, or by neither."""
    pytest.importorskip("transformers", reason="the torch extra is not installed")
    from transformers.quantizers import AutoHfQuantizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    config = {"quantization_config": {"quant_method": method, **STORED[method]}}
    try:
        AutoHfQuantizer.from_config(config["quantization_config"], pre_quantized=True).validate_environment()
    except (ImportError, RuntimeError) as error:
        with pytest.raises((MissingPackageError, UnsupportedQuantizationError)) as caught:
            check_stored(config, CPU)
        missing = caught.value.fields.get("package", "CUDA")
        assert missing.lower() in str(error).lower() or METHODS[method].capability is not None
    else:
        check_stored(config, CPU)


def test_every_method_is_one_of_transformers() -> None:
    pytest.importorskip("transformers", reason="the torch extra is not installed")
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

    assert {name for name in METHODS if name != "bitsandbytes"} <= AUTO_QUANTIZER_MAPPING.keys()
    assert "bitsandbytes_4bit" in AUTO_QUANTIZER_MAPPING


def test_submitting_refuses_a_method_nobody_loads(tmp_path) -> None:
    folder = make_model(tmp_path / "m", quantization_config={"quant_method": "zip"})
    spec = ModelSpec(id=str(folder))
    with pytest.raises(UnsupportedQuantizationError, match="no loader knows"):
        LoadingNeeds(spec, Checkpoint.resolve(spec)).check()


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(UnsupportedQuantizationError, match="no loader knows"):
        check_stored({"quantization_config": {"quant_method": "zip"}}, H100)


def test_every_package_can_be_named() -> None:
    modules = {module for method in METHODS.values() for module in (*method.modules, *method.kernels)}
    assert modules | {recipe.package for recipe in RECIPES.values()} <= PACKAGES.keys()


def test_plain_checkpoints_need_nothing(nothing_installed) -> None:
    assert stored_method({}) is None
    check_stored({}, CPU)


def test_outliers_are_sought_by_the_padded_back_end_alone() -> None:
    assert int8_threshold(model("int8", backend="transformers")) == 6.0
    assert int8_threshold(model("int8")) == 0.0
    assert int8_threshold(model("int8", int8_threshold=4.5)) == 4.5
    assert int8_threshold(model("int8", backend="transformers", int8_threshold=0.0)) == 0.0


@pytest.mark.parametrize(("backend", "reason"), [("packed", "packed rows take 0"), ("onnxruntime", "no outliers")])
def test_a_threshold_is_refused_where_none_is_kept(backend: str, reason: str) -> None:
    with pytest.raises(UnsupportedQuantizationError, match=reason):
        check_options(model("int8", backend=backend, int8_threshold=6.0), "bfloat16", stored=None)
    if backend == "packed":
        check_options(model("int8", backend=backend, int8_threshold=0.0), "bfloat16", stored=None)


def test_a_threshold_belongs_to_int8() -> None:
    with pytest.raises(ValueError, match="is of quantization int8"):
        model("nf4", int8_threshold=6.0)
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        model("int8", int8_threshold=-1.0)
