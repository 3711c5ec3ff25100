"""The packed engine on a CUDA device: kernels, compiled layers and graphs give the tokens of the eager model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from parquetry.workers.packed.options import PackedOptions
from parquetry.workers.packed.packed_engine import PackedEngine
from parquetry.workers.request import GenerationRequest, SamplingParams
from tests.gpu.greedy_rows import greedy_gaps, make_requests, run_all

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    pytest.mark.filterwarnings("default"),
]
SIZES = {
    "vocab_size": 512, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 512, "initializer_range": 0.2,
}  # fmt: skip
FAMILIES = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM)}


def make_model(family: str, dtype: torch.dtype) -> torch.nn.Module:
    torch.manual_seed(0)
    config, model = FAMILIES[family]
    return model(config(**SIZES)).to("cuda", dtype).eval()


LENS = [1, 3, 300, 64, 17, 130, 33, 200]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attention", ["auto", "triton", "torch_varlen", "sdpa"])
def test_every_backend_follows_the_eager_model(family: str, attention: str) -> None:
    model = make_model(family, torch.bfloat16)
    options = PackedOptions(attention=attention, token_budget=128, max_num_seqs=8, num_blocks=200, compile=False)
    engine = PackedEngine(model, None, (), options)
    requests = make_requests(LENS, max_new_tokens=24)
    done = run_all(engine, requests)
    engine.close()
    # bf16 cannot decide near-ties: every chosen token must be the best one or next to it.
    gaps = np.concatenate([greedy_gaps(model, r, c.output_ids) for r, c in zip(requests, done, strict=True)])
    scale = 0.05 * 16
    assert gaps.max() < scale
    assert np.mean(gaps == 0) > 0.9


def test_compiled_layers_and_graphs_follow_the_eager_model() -> None:
    model = make_model("llama", torch.bfloat16)
    engine = PackedEngine(model, None, (), PackedOptions(token_budget=256, max_num_seqs=8, num_blocks=200))
    assert engine.runner.graphs is not None
    requests = make_requests(LENS, max_new_tokens=24)
    done = run_all(engine, requests)
    engine.close()
    gaps = np.concatenate([greedy_gaps(model, r, c.output_ids) for r, c in zip(requests, done, strict=True)])
    assert gaps.max() < 0.8
    assert np.mean(gaps == 0) > 0.9


def test_graph_replay_equals_eager_steps() -> None:
    model = make_model("llama", torch.float32)
    results = []
    for graphs in (False, True):
        options = PackedOptions(
            attention="triton", token_budget=128, max_num_seqs=8, num_blocks=60, compile=False, graphs=graphs
        )
        engine = PackedEngine(model, None, (), options)
        sampling = {"max_new_tokens": 24, "temperature": 0.8, "top_p": 0.9, "min_p": 0.05, "logprobs": True}
        sampling |= {"repetition_penalty": 1.1, "presence_penalty": 0.3, "frequency_penalty": 0.2}
        results.append(run_all(engine, make_requests(LENS, **sampling)))
        engine.close()
    same = [a.output_ids.tolist() == b.output_ids.tolist() for a, b in zip(*results, strict=True)]
    assert all(same)


def test_real_out_of_memory_is_survived() -> None:
    model = make_model("llama", torch.bfloat16)
    engine = PackedEngine(
        model, None, (), PackedOptions(token_budget=4096, max_num_seqs=8, num_blocks=200, compile=False, graphs=False)
    )
    launch, calls = engine.runner.launch, []

    def starving(*args):
        calls.append(None)
        if len(calls) == 3:
            torch.empty(1 << 50, device="cuda")
        return launch(*args)

    engine.runner.launch = starving
    done = run_all(engine, make_requests(LENS, max_new_tokens=8))
    assert all(len(completion.output_ids) == 8 for completion in done)
    assert engine.stats()["out_of_memory"] == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_prefixes_that_are_read_once_follow_the_eager_model(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parquetry.workers.packed.scheduling.sharing.MIN_SAVED_TOKENS", 1)
    monkeypatch.setattr("parquetry.workers.packed.scheduling.sharing.FIRST_REST", 2)
    model = make_model(family, torch.bfloat16)
    engine = PackedEngine(
        model, None, (), PackedOptions(token_budget=512, max_num_seqs=48, num_blocks=600, compile=False)
    )
    rng = np.random.default_rng(1)
    instructions = [rng.integers(0, 512, n).astype(np.int32) for n in (130, 200)]
    tails = [request.prompt_ids for request in make_requests([1 + 3 * i for i in range(40)])]
    prompts = [np.concatenate([instructions[i % 4 == 0], tail]) for i, tail in enumerate(tails)]
    sampling = SamplingParams(max_new_tokens=24)
    requests = [GenerationRequest(id=i, row=i, prompt_ids=ids, params=sampling) for i, ids in enumerate(prompts)]
    done = run_all(engine, requests)
    kinds = engine.runner.graphs.kinds
    engine.close()
    assert any(kind.is_shared for kind in kinds)
    gaps = np.concatenate([greedy_gaps(model, r, c.output_ids) for r, c in zip(requests, done, strict=True)])
    assert gaps.max() < 0.8
    assert np.mean(gaps == 0) > 0.9


def test_a_long_prefix_shared_by_many_rows_is_read_once_without_being_asked() -> None:
    model = make_model("llama", torch.bfloat16)
    engine = PackedEngine(
        model, None, (), PackedOptions(token_budget=1024, max_num_seqs=64, num_blocks=800, compile=False)
    )
    instruction = np.random.default_rng(2).integers(0, 512, 400).astype(np.int32)
    sampling = SamplingParams(max_new_tokens=40)
    requests = [
        GenerationRequest(id=i, row=i, prompt_ids=np.append(instruction, np.int32(i)), params=sampling)
        for i in range(64)
    ]
    done = run_all(engine, requests)
    kinds = engine.runner.graphs.kinds
    engine.close()
    assert any(kind.is_shared for kind in kinds)
    gaps = np.concatenate([greedy_gaps(model, r, c.output_ids) for r, c in zip(requests, done, strict=True)])
    assert gaps.max() < 0.8
