"""Loading on a CUDA card: each quantization in both back ends, attention kernels, memory limits, grammars in graphs."""

from __future__ import annotations

import gc
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from parquetry.schemas.errors import ModelTooLargeError, UnsupportedAttentionError
from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.engine import Engine
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.fusing.int8_linear import Int8Linear, has_int8_weight, swap_int8_layers
from parquetry.workers.fusing.merged_projections import MergedProjection, merge_projections
from parquetry.workers.grammar.grammar import Grammar
from parquetry.workers.hosting.engine_choice import load_engine
from parquetry.workers.hosting.model_host import ModelHost
from parquetry.workers.loading.attention_choice import use_attention
from parquetry.workers.loading.model import load_model
from parquetry.workers.loading.quantization.quantization import RECIPES
from parquetry.workers.packages import is_installed
from parquetry.workers.packed.checks.sharing_check import relative_error
from parquetry.workers.packed.options import PackedOptions
from parquetry.workers.packed.packed_engine import PackedEngine
from parquetry.workers.request import Completion, GenerationRequest, SamplingParams

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    pytest.mark.filterwarnings("default"),
]
QUANTIZATIONS = ["none", *sorted(RECIPES)]


@pytest.fixture(autouse=True)
def empty_card() -> None:
    """Engines of earlier tests are gone, with their memory."""
    gc.collect()
    torch.cuda.empty_cache()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of three layers, wide enough for every kernel, with the tiny byte tokenizer."""
    from tests.models import write_causal_lm

    folder = write_causal_lm(tmp_path_factory.mktemp("lm"))
    vocab_size = json.loads((folder / "config.json").read_text())["vocab_size"]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab_size, hidden_size=256, intermediate_size=512, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=64, max_position_embeddings=512, initializer_range=0.1, eos_token_id=3,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def spec_of(folder: Path, **model: object) -> EngineSpec:
    options = ModelSpec(id=str(folder), **{"dtype": "bfloat16", **model})
    return EngineSpec(task="generate", model_path=str(folder), model=options, device="cuda:0", token_budget=1024)


def load(folder: Path, **model: object) -> torch.nn.Module:
    if model.get("quantization", "none") != "none" and not is_installed(RECIPES[model["quantization"]].package):
        pytest.skip(f"{RECIPES[model['quantization']].package} is not installed")
    spec = spec_of(folder, **model)
    return load_model(spec, Checkpoint.resolve(spec.model), AutoModelForCausalLM)


def packed(model: torch.nn.Module, **options: object) -> PackedEngine:
    return PackedEngine(model, None, (), PackedOptions(max_num_seqs=16, num_blocks=256, max_model_len=256, **options))


def requests(count: int = 6, **params: object) -> list[GenerationRequest]:
    sampling = SamplingParams(**{"max_new_tokens": 12, **params})
    rng = np.random.default_rng(0)
    prompts = [rng.integers(5, 250, 4 + 7 * i).astype(np.int32) for i in range(count)]
    return [GenerationRequest(id=i, row=i, prompt_ids=ids, params=sampling) for i, ids in enumerate(prompts)]


def complete(engine: Engine, batch: list[GenerationRequest]) -> list[Completion]:
    engine.add(batch)
    done = {}
    while engine.num_unfinished:
        done.update((result.id, result) for result in engine.step())
    assert all(result.error is None for result in done.values())
    return [done[i] for i in sorted(done)]


def ids_of(completions: list[Completion]) -> list[list[int]]:
    return [completion.output_ids.tolist() for completion in completions]


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_graphs_keep_the_tokens(folder: Path, quantization: str) -> None:
    """Compiled layers round differently, so graphs are compared without them."""
    model = load(folder, quantization=quantization)
    plain = packed(model, compile=False, graphs=False)
    without = ids_of(complete(plain, requests()))
    plain.close()
    engine = packed(model, compile=False)
    assert engine.runner.graphs is not None
    assert ids_of(complete(engine, requests())) == without


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_compiled_layers_generate(folder: Path, quantization: str) -> None:
    engine = packed(load(folder, quantization=quantization))
    assert engine.runner.graphs is not None
    assert all(len(ids) == 12 for ids in ids_of(complete(engine, requests())))


@torch.inference_mode()
def logits_of(folder: Path, *, device: str = "cuda:0", **model: object) -> torch.Tensor:
    spec = spec_of(folder, **model).model_copy(update={"device": device})
    loaded = load_model(spec, Checkpoint.resolve(spec.model), AutoModelForCausalLM)
    return loaded(input_ids=torch.arange(5, 105, device=device)[None]).logits.float().cpu()


@pytest.mark.parametrize(("quantization", "limit"), [("int8", 0.12), ("fp8", 0.4), ("int8-weight-only", 0.12)])
def test_eight_bits_stay_close_to_the_plain_model(folder: Path, quantization: str, limit: float) -> None:
    pytest.importorskip(RECIPES[quantization].package)
    want, got = logits_of(folder), logits_of(folder, quantization=quantization)
    assert float((got - want).norm() / want.norm()) < limit


@pytest.mark.parametrize("options", [{}, {"compile": False}])
def test_int8_weights_take_our_kernels_until_the_engine_closes(folder: Path, options: dict) -> None:
    model = load(folder, quantization="int8-weight-only")
    before = dict(model.named_modules())
    engine = packed(model, **options)
    layer = model.model.layers[0]
    assert type(layer.mlp.down_proj) is Int8Linear
    assert type(layer.self_attn.q_proj) is (Int8Linear if options else MergedProjection)
    assert all(len(ids) == 12 for ids in ids_of(complete(engine, requests())))
    engine.close()
    assert all(module is before[name] for name, module in model.named_modules())


def in_float32(folder: Path, model: torch.nn.Module) -> torch.nn.Module:
    """A model with the weights that the quantized one stands for, without any rounding since."""
    exact = load(folder).float()
    for name, module in model.named_modules():
        if has_int8_weight(module):
            exact.get_submodule(name).weight.data = module.weight.dequantize(torch.float32)
    return exact


@torch.inference_mode()
def test_our_int8_kernels_are_as_exact_as_torchao(folder: Path) -> None:
    model, ids = load(folder, quantization="int8-weight-only"), torch.arange(5, 305, device="cuda")[None] % 250
    exact = in_float32(folder, model)
    for count in (2, 20, 50, 100, 200, 300):
        want, theirs = (each(input_ids=ids[:, :count]).logits for each in (exact, model))
        undos = [swap_int8_layers(model), merge_projections(model)]
        ours = model(input_ids=ids[:, :count]).logits
        for undo in reversed(undos):
            undo()
        assert relative_error(ours, want) < min(0.05, 1.25 * relative_error(theirs, want) + 0.002)


@torch.inference_mode()
def test_compiled_int8_layers_of_real_width_call_no_kernel_of_torch() -> None:
    """Prompts and decodes, beside float32; torch's own kernel for int8 weights takes minutes for such a layer."""
    torchao = pytest.importorskip("torchao.quantization")
    from torch._inductor import config
    from torch._inductor.utils import run_and_get_code

    layers = torch.nn.Sequential(torch.nn.Linear(4096, 14336, bias=False, dtype=torch.bfloat16, device="cuda"))
    torchao.quantize_(layers, torchao.Int8WeightOnlyConfig(version=2, set_inductor_config=False))
    plain = layers[0].weight.dequantize(torch.float32)
    swap_int8_layers(layers)
    layers.compile(dynamic=True)
    for num_tokens in (4096, 16, 200):
        x = torch.randn(num_tokens, 4096, device="cuda", dtype=torch.bfloat16)
        with config.patch(force_disable_caches=True):
            got, code = run_and_get_code(layers, x)
        assert relative_error(got, x.float() @ plain.T) < 5e-3
        assert not any("_weight_int8pack_mm" in text for text in code)
        assert num_tokens < 4096 or any("parquetry.int8_linear" in text for text in code)


@pytest.mark.parametrize("quantization", ["nf4", "fp4"])
def test_four_bits_are_those_of_the_cpu(folder: Path, quantization: str) -> None:
    """Random weights suffer more from four bits than trained ones do, so the plain model is no measure."""
    want = logits_of(folder, quantization=quantization, device="cpu")
    got = logits_of(folder, quantization=quantization)
    assert float((got - want).norm() / want.norm()) < 0.1


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_the_padded_back_end_generates(folder: Path, quantization: str) -> None:
    if quantization != "none" and not is_installed(RECIPES[quantization].package):
        pytest.skip(f"{RECIPES[quantization].package} is not installed")
    engine = load_engine(spec_of(folder, quantization=quantization, backend="transformers"))
    assert all(ids for ids in ids_of(complete(engine, requests())))


@pytest.mark.parametrize("attention", ["eager", "sdpa", "sdpa-efficient", "sdpa-math", "sdpa-cudnn"])
def test_attention_serves_padded_batches(folder: Path, attention: str) -> None:
    engine = load_engine(spec_of(folder, attention=attention, backend="transformers"))
    assert engine.describe()["attention"] == attention
    assert all(ids for ids in ids_of(complete(engine, requests())))


def test_attention_changes_without_reloading(folder: Path) -> None:
    model = load(folder)
    addresses = [weight.data_ptr() for weight in model.parameters()]
    held = torch.cuda.memory_allocated()
    for attention in ("eager", "sdpa-efficient", "sdpa"):
        use_attention(model, attention)
        model(input_ids=torch.arange(5, 50, device="cuda")[None])
    for name in ("triton", "sdpa"):
        engine = packed(model, attention=name, compile=False, graphs=False)
        complete(engine, requests(2))
        engine.close()
    assert [weight.data_ptr() for weight in model.parameters()] == addresses
    assert torch.cuda.memory_allocated() - held < 64 << 20


def test_a_kernel_that_takes_no_mask_is_refused(folder: Path) -> None:
    with pytest.raises(UnsupportedAttentionError, match="takes no mask"):
        load_engine(spec_of(folder, attention="sdpa-flash"))


def test_flash_attention_refuses_float32(folder: Path) -> None:
    with pytest.raises(UnsupportedAttentionError, match="float32"):
        load_engine(spec_of(folder, attention="flash_attention_2", dtype="float32"))


def test_a_memory_limit_is_obeyed(folder: Path) -> None:
    limit = torch.cuda.memory_allocated() + (4 << 30)
    engine = load_engine(spec_of(folder, max_memory={"0": str(limit)}, compile=False))
    complete(engine, requests())
    assert torch.cuda.memory_reserved() <= limit
    with pytest.raises(ModelTooLargeError, match="are missing"):
        load_engine(spec_of(folder, max_memory={"0": "100KiB"}))


def test_weights_that_do_not_fit_the_card_are_offloaded(folder: Path) -> None:
    engine = load_engine(spec_of(folder, max_memory={"0": "3MB", "cpu": "1GiB"}))
    assert engine.describe()["backend"] == "transformers"
    assert all(ids for ids in ids_of(complete(engine, requests(2))))


@pytest.mark.parametrize("options", [{}, {"compile": False}])
def test_grammars_hold_in_graphs(folder: Path, options: dict) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    schema = {
        "type": "object",
        "properties": {"label": {"enum": ["good", "bad"]}, "n": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["label", "n"],
        "additionalProperties": False,
    }
    settings = PackedOptions(max_num_seqs=16, num_blocks=256, max_model_len=256, **options)
    engine = PackedEngine(load(folder), tokenizer, (3,), settings)
    assert engine.runner.graphs is not None
    text = Grammar("json_schema", schema).text
    done = complete(engine, requests(18, grammar=text, temperature=1.0, max_new_tokens=60))
    for completion in done:
        document = json.loads(tokenizer.decode(completion.output_ids.tolist()))
        assert document["label"] in ("good", "bad") and 0 <= document["n"] <= 99


@pytest.mark.parametrize("options", [{}, {"compile": False}, {"graphs": False}])
def test_rows_of_different_adapters_answer_as_merged_models(folder: Path, tmp_path: Path, options: dict) -> None:
    pytest.importorskip("peft")
    from tests.unit.workers.checkpoint.adapter_folders import SHAPES, write_adapter

    plain = AutoModelForCausalLM.from_pretrained(folder)
    folders = {name: str(write_adapter(tmp_path / name, plain, name)) for name in SHAPES}
    names = [None, *SHAPES, "mlp", None]

    def outputs(model: torch.nn.Module, adapters: list[str | None], **switches: object) -> list[list[int]]:
        engine = packed(model, **switches)
        assert (engine.runner.graphs is None) == (switches.get("graphs") is False)
        asked = [replace(r, adapter=name) for r, name in zip(requests(), adapters, strict=True)]
        results = complete(engine, asked)
        engine.close()
        return ids_of(results)

    # float32: products of other shapes must not decide a tie
    mixed = outputs(load(folder, dtype="float32", adapters=folders), names, **options)
    for name in (None, *SHAPES):
        model = load(folder, dtype="float32", adapter=folders.get(name))
        merged = outputs(model, [None] * 6, compile=False, graphs=False)
        assert all(mixed[i] == merged[i] for i in range(6) if names[i] == name)


def test_attention_changes_on_weights_that_stay(folder: Path) -> None:
    host = ModelHost(lambda: None)
    ran, used = [], []
    for attention in ("triton", "eager", "sdpa", "sdpa-math", "triton", "auto", "eager"):
        engine = host.build(spec_of(folder, attention=attention, compile=False, max_memory={"0": "2GiB"}))
        done = complete(engine, requests())
        ran.append((engine.describe()["attention"], [len(completion.output_ids) for completion in done]))
        if attention == "eager":
            # without a cache of blocks: what is allocated is the weights, and they are there once
            used.append(torch.cuda.memory_allocated())
        del engine, done
    assert ran[0] == ran[4] and ran[1] == ran[6] and ran[1][0] == "eager"
    assert used[1] < 1.2 * used[0] + (8 << 20)
