"""What a device group cannot share is refused from the files, or served as on one device and said so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from parquetry.schemas.errors import ModelTooLargeError, UnsupportedOptionError
from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.card import Card
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.engine import Engine
from parquetry.workers.hosting.eligibility import why_not_parallel
from parquetry.workers.hosting.group_loading import load_device_group
from parquetry.workers.loading.devices.parallelism import UnevenSharesError, check_parallel
from parquetry.workers.loading.devices.placement import choose_share
from parquetry.workers.parallel.shares import generic
from tests.unit.workers.parallel.shared_models import make_requests, outputs, run_all, spec_of, write_model

LLAMA = {"num_attention_heads": 32, "num_key_value_heads": 8}
GIB = 2**30


@pytest.mark.parametrize("size", [2, 4, 8])
def test_heads_that_can_be_shared(size: int) -> None:
    check_parallel(ModelSpec(id="m"), LLAMA, size)


@pytest.mark.parametrize(
    ("config", "size", "said"),
    [
        (LLAMA, 16, "m has 32 attention heads and 8 key-value heads, which 16 devices cannot share evenly; "
         "--gpus-per-engine may be 1, 2, 4 or 8."),
        ({"num_attention_heads": 14, "num_key_value_heads": 2}, 4, "may be 1 or 2."),
        ({"text_config": {"num_attention_heads": 7}}, 2, "may be 1 or 7."),
        ({"num_attention_heads": 9, "num_key_value_heads": 1}, 3, "may be 1."),
    ],
)  # fmt: skip
def test_heads_that_cannot(config: dict, size: int, said: str) -> None:
    with pytest.raises(UnevenSharesError) as caught:
        check_parallel(ModelSpec(id="m"), config, size)
    assert str(caught.value).endswith(said)


@pytest.mark.parametrize(
    ("model", "config", "said"),
    [
        ({"quantization": "nf4"}, {}, "model.quantization nf4 on a device group of 2 is not supported"),
        ({"adapter": "lora"}, {}, "model.adapter on a device group of 2 is not supported"),
        ({}, {"quantization_config": {"quant_method": "gptq"}}, "a checkpoint quantized with gptq"),
    ],
)
def test_what_cannot_be_combined(model: dict, config: dict, said: str) -> None:
    with pytest.raises(UnsupportedOptionError, match=said):
        check_parallel(ModelSpec(id="m", **model), {**LLAMA, **config}, 2)


def test_a_share_has_to_fit_its_own_device() -> None:
    cards = {0: Card("cuda", "card", (9, 0), 10 * GIB), 1: Card("cuda", "card", (9, 0), 10 * GIB)}
    placement = choose_share(ModelSpec(id="m"), 16 * GIB, cards, device="cuda:1", shares=2)
    assert (placement.device_map, placement.shares) == ({"": "cuda:1"}, 2)
    with pytest.raises(ModelTooLargeError, match=r"10\.0 GiB .*cuda:1"):
        choose_share(ModelSpec(id="m"), 20 * GIB, cards, device="cuda:1", shares=2)


def test_names_of_a_plan() -> None:
    assert generic("model.layers.11.mlp.experts.0.w1") == "model.layers.*.mlp.experts.*.w1"
    assert generic("model.layers.3") == "model.layers.*"


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory) -> Path:
    sizes = {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 256}
    return write_model(tmp_path_factory.mktemp("gpt2"), "gpt2", **sizes)


def test_a_class_without_a_plan_is_served_and_says_so(gpt2: Path, tmp_path: Path, caplog) -> None:
    engine = load_device_group(spec_of(gpt2, "cpu:0,1"), tmp_path, fail)
    reason = "transformers has no tensor parallel plan for GPT2LMHeadModel"
    assert engine.provenance_notes["why_not_tensor_parallel"] == reason
    assert f"is not computed by 2 devices together: {reason}" in caplog.text
    assert len(outputs(run_all(engine, make_requests(3, 5)))) == 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": "embed"}, "task embed has engines for one device only"),
        ({"backend": "transformers"}, "model.backend is transformers"),
        ({"attention": "eager"}, "the packed engine has no attention eager"),
    ],
)
def test_what_one_device_serves(gpt2: Path, changes: dict, said: str) -> None:
    task = changes.pop("task", "generate")
    spec = spec_of(gpt2, "cpu:0,1", **changes).model_copy(update={"task": task})
    assert said in why_not_parallel(spec, Checkpoint.resolve(spec.model))


def test_layers_with_a_state_start_no_rank(tmp_path: Path) -> None:
    types = ["full_attention", "conv"]
    folder = write_model(tmp_path / "model", "llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "layer_types": types}))
    spec = spec_of(folder, "cpu:0,1")
    assert "layers of type conv keep state" in why_not_parallel(spec, Checkpoint.resolve(spec.model))


def test_uneven_heads_start_no_rank(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "llama")
    with pytest.raises(UnevenSharesError, match="may be 1 or 2"):
        load_device_group(spec_of(folder, "cpu:0,1,2"), tmp_path, fail)


def fail(reason: str, permanent: bool) -> Engine:
    raise AssertionError(reason)
