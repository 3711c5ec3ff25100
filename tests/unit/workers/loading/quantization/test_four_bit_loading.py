"""Checkpoints of 4 bits load with none of their methods' packages, and compute what their weights expanded do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from parquetry.schemas.errors import UnsupportedOptionError, UnsupportedQuantizationError
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.fusing.four_bit_linear import FourBitLinear
from parquetry.workers.hosting.engine_choice import load_engine
from parquetry.workers.loading.attention_choice import AttentionLimits
from parquetry.workers.loading.model import load_model
from parquetry.workers.loading.needs import LoadingNeeds
from parquetry.workers.request import EncodeRequest, GenerationRequest, SamplingParams
from tests.unit.workers.loading.quantization.four_bit_checkpoints import LAYOUTS, write_four_bit
from tests.unit.workers.loading.spec_cases import GIB, H100, engine_spec

IDS = torch.arange(5, 29)[None]


def load(folder: Path, auto_class: type = AutoModelForCausalLM, **model: object) -> torch.nn.Module:
    spec = engine_spec(folder, **model)
    return load_model(spec, Checkpoint.resolve(spec.model), auto_class)


def stock(source: Path, expanded: dict[str, torch.Tensor], dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """The model as it was, with the expanded weights."""
    model = AutoModelForCausalLM.from_pretrained(source)
    model.load_state_dict(expanded)
    return model.to(dtype).eval()


@pytest.mark.parametrize("name", LAYOUTS)
@torch.inference_mode()
def test_every_layout_is_its_weights_expanded(wide_lm: Path, tmp_path: Path, name: str) -> None:
    expanded = write_four_bit(wide_lm, tmp_path / "m", LAYOUTS[name])
    model = load(tmp_path / "m")
    layers = [module for module in model.modules() if isinstance(module, FourBitLinear)]
    assert len(layers) == 14 and type(model.lm_head) is torch.nn.Linear
    assert all((layer.zeros is None) == LAYOUTS[name].symmetric for layer in layers)
    assert any(layer.order is not None for layer in layers) == LAYOUTS[name].act_order
    assert torch.equal(layers[-1].weight, expanded["model.layers.1.mlp.down_proj.weight"])
    assert torch.allclose(model(IDS).logits, stock(wide_lm, expanded)(IDS).logits, rtol=1e-4, atol=1e-4)


def generate(folder: Path, **model: object) -> tuple[dict[int, list[int]], dict[str, str]]:
    """Tokens of rows of several lengths by request, and what the engine says of itself."""
    engine = load_engine(engine_spec(folder, **model))
    prompts = [np.arange(5, 5 + length, dtype=np.int32) for length in (3, 40, 17, 8)]
    params = SamplingParams(max_new_tokens=12)
    engine.add([GenerationRequest(id=i, row=i, prompt_ids=ids, params=params) for i, ids in enumerate(prompts)])
    results = []
    while engine.num_unfinished:
        results += engine.step()
    assert all(result.error is None for result in results)
    return {result.id: result.output_ids.tolist() for result in results}, {
        **engine.describe(),
        **engine.provenance_notes,
    }


@pytest.mark.parametrize("name", ["gptq-asymmetric-act-order", "awq", "compressed-tensors"])
def test_packed_and_padded_rows_are_those_of_the_weights_expanded(wide_lm: Path, tmp_path: Path, name: str) -> None:
    expanded = write_four_bit(wide_lm, tmp_path / "m", LAYOUTS[name])
    stock(wide_lm, expanded).save_pretrained(tmp_path / "expanded")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "expanded" / file).write_bytes((wide_lm / file).read_bytes())
    want, _ = generate(tmp_path / "expanded", backend="transformers")
    for backend in ("packed", "transformers"):
        tokens, about = generate(tmp_path / "m", backend=backend)
        assert tokens == want
        assert about["quantization"] == f"{LAYOUTS[name].method}-int4" and about["backend"] == backend
    assert len(set(map(tuple, want.values()))) > 1


@pytest.mark.parametrize(("stored", "dtype"), [("float16", "bfloat16"), ("bfloat16", "float16")])
@torch.inference_mode()
def test_other_half_precision_than_the_stored_one(wide_lm: Path, tmp_path: Path, stored: str, dtype: str) -> None:
    """Also of the body alone, whose weights have other names in the files."""
    write_four_bit(wide_lm, tmp_path / "m", LAYOUTS["gptq"])
    file = tmp_path / "m" / "model.safetensors"
    tensors = {k: v.to(getattr(torch, stored)) if v.is_floating_point() else v for k, v in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    for auto_class in (AutoModelForCausalLM, AutoModel):
        model = load(tmp_path / "m", auto_class, dtype=dtype)
        kinds = {p.dtype for p in (*model.parameters(), *model.buffers())} - {torch.int32, torch.float32}
        assert kinds == {getattr(torch, dtype)}
        assert any(isinstance(module, FourBitLinear) for module in model.modules())
        assert all(bool(output.isfinite().all()) for output in model(IDS)[0])


@pytest.mark.parametrize("name", ["gptq-asymmetric", "awq", "compressed-tensors"])
def test_an_encoder_embeds_as_its_weights_expanded(wide_embedder: Path, tmp_path: Path, name: str) -> None:
    """Its layers have biases."""
    expanded = write_four_bit(wide_embedder, tmp_path / "m", LAYOUTS[name])
    plain = write_four_bit(wide_embedder, tmp_path / "plain", LAYOUTS[name])
    save_file({k: v.contiguous() for k, v in plain.items()}, tmp_path / "plain" / "model.safetensors", {"format": "pt"})
    config = json.loads((tmp_path / "plain" / "config.json").read_text())
    del config["quantization_config"]
    (tmp_path / "plain" / "config.json").write_text(json.dumps(config))
    rows = [EncodeRequest(id=i, token_ids=np.arange(5, 6 + 3 * i, dtype=np.int32)) for i in range(4)]

    def vectors(folder: Path, backend: str) -> tuple[np.ndarray, dict[str, str]]:
        engine = load_engine(engine_spec(folder, task="embed", backend=backend))
        engine.add(rows)
        results = []
        while engine.num_unfinished:
            results += engine.step()
        return np.stack([r.values for r in sorted(results, key=lambda r: r.id)]), {
            **engine.describe(),
            **engine.provenance_notes,
        }

    assert expanded.keys() == plain.keys()
    want, _ = vectors(tmp_path / "plain", "transformers")
    for backend in ("packed", "transformers"):
        got, about = vectors(tmp_path / "m", backend)
        assert np.allclose(got, want, rtol=1e-3, atol=1e-4) and about["quantization"].endswith("-int4")


@torch.inference_mode()
def test_names_that_wrappers_of_training_gave_are_read(wide_lm: Path, tmp_path: Path) -> None:
    expanded = write_four_bit(wide_lm, tmp_path / "m", LAYOUTS["awq"])
    file = tmp_path / "m" / "model.safetensors"
    save_file({f"module._orig_mod.{k}": v for k, v in load_file(file).items()}, file, metadata={"format": "pt"})
    assert torch.allclose(load(tmp_path / "m")(IDS).logits, stock(wide_lm, expanded)(IDS).logits, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_modules_that_were_left_out_stay_plain(wide_lm: Path, tmp_path: Path) -> None:
    expanded = write_four_bit(wide_lm, tmp_path / "m", LAYOUTS["gptq"])
    file, left_out = tmp_path / "m" / "model.safetensors", "model.layers.0.mlp.down_proj"
    tensors = {name: tensor for name, tensor in load_file(file).items() if not name.startswith(f"{left_out}.")}
    expanded[f"{left_out}.weight"] = load_file(wide_lm / "model.safetensors")[f"{left_out}.weight"]
    save_file({**tensors, f"{left_out}.weight": expanded[f"{left_out}.weight"]}, file, metadata={"format": "pt"})
    model = load(tmp_path / "m")
    assert type(model.get_submodule(left_out)) is torch.nn.Linear
    assert torch.allclose(model(IDS).logits, stock(wide_lm, expanded)(IDS).logits, rtol=1e-4, atol=1e-4)


def rewrite(folder: Path, name: str, tensor: torch.Tensor) -> None:
    file = folder / "model.safetensors"
    save_file({**load_file(file), name: tensor}, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("tensor", "value", "reason"),
    [
        ("qweight", torch.zeros(4, 64, dtype=torch.int32), "q_proj has a qweight of .* where a layer of its size has"),
        ("scales", torch.zeros(1, 64), "q_proj has a scales of"),
        ("g_idx", torch.zeros(64, dtype=torch.int32), "q_proj, its inputs are in groups that do not all have 32"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    wide_lm: Path, tmp_path: Path, tensor: str, value: torch.Tensor, reason: str
) -> None:
    write_four_bit(wide_lm, tmp_path / "m", LAYOUTS["gptq"])
    rewrite(tmp_path / "m", f"model.layers.0.self_attn.q_proj.{tensor}", value)
    with pytest.raises(UnsupportedQuantizationError, match=reason):
        load(tmp_path / "m")


def test_modules_that_the_class_holds_otherwise_are_refused(tmp_path: Path, wide_lm: Path) -> None:
    """GPT-2's are no linear layers."""
    write_four_bit(wide_lm, tmp_path / "m", LAYOUTS["gptq"])
    section = json.loads((tmp_path / "m" / "config.json").read_text())["quantization_config"]
    config = AutoConfig.for_model("gpt2", n_embd=32, n_head=4, n_layer=1, n_positions=64, vocab_size=99)
    model = AutoModelForCausalLM.from_config(config)
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    codes = torch.zeros(4, 96, dtype=torch.int32)
    save_file({**tensors, "transformer.h.0.attn.c_attn.qweight": codes}, tmp_path / "m" / "model.safetensors")
    written = {**config.to_dict(), "quantization_config": section, "architectures": ["GPT2LMHeadModel"]}
    (tmp_path / "m" / "config.json").write_text(json.dumps(written))
    with pytest.raises(UnsupportedQuantizationError, match=r"attn\.c_attn is no linear layer of its own in the model"):
        load(tmp_path / "m")


def test_weights_lie_on_one_device_of_one_rank(wide_lm: Path, tmp_path: Path) -> None:
    write_four_bit(wide_lm, tmp_path / "m", LAYOUTS["gptq"])
    spec = engine_spec(tmp_path / "m", max_memory={"0": "90KB", "1": "190KB"})
    needs = LoadingNeeds(spec.model, Checkpoint.resolve(spec.model))
    limits = AttentionLimits.of(None, H100, "bfloat16")
    with pytest.raises(UnsupportedQuantizationError, match="must lie on one device"):
        needs.placement("cuda:0", {0: H100, 1: H100}, limits)
    needs = LoadingNeeds(engine_spec(tmp_path / "m").model, needs.checkpoint)
    with pytest.raises(UnsupportedOptionError, match="quantized with gptq on a device group of 2"):
        needs.placement("cuda:0", {0: H100, 1: H100}, limits, shares=2)
    assert needs.needed_bytes("cuda") < GIB
