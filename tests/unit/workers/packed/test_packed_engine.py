"""The engine end to end on a tiny model: packing, preemption, stops, errors, sampling, out of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedModel

from parquetry.workers.packed.options import PackedOptions
from parquetry.workers.packed.packed_engine import PackedEngine
from parquetry.workers.request import GenerationRequest, SamplingParams
from tests.unit.workers.packed.packed_families import (
    VOCAB,
    make_prompts,
    make_requests,
    reference_outputs,
    run_all,
    tiny_model,
)

Start = Callable[..., PackedEngine]
PROMPTS = make_prompts(3, 17, 40, 1, 9, 60)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def expected(model: PreTrainedModel) -> list[list[int]]:
    return reference_outputs(model, PROMPTS, 20)


@pytest.fixture
def start(model: PreTrainedModel) -> Iterator[Start]:
    """Starts engines on the one model, each closing the one before it."""
    engines: list[PackedEngine] = []

    def start(*, tokenizer: Tokenizer | None = None, eos_ids: tuple[int, ...] = (), **options: Any) -> PackedEngine:
        for engine in engines:
            engine.close()
        sizes = {"block_size": 8, "token_budget": 32, "num_blocks": 64, **options}
        engines.append(PackedEngine(model, tokenizer, eos_ids, PackedOptions(**sizes)))
        return engines[-1]

    yield start
    for engine in engines:
        engine.close()


@pytest.fixture
def engine(start: Start) -> PackedEngine:
    return start()


def outputs(done: dict) -> list[list[int]]:
    return [done[i].output_ids.tolist() for i in sorted(done)]


@pytest.mark.parametrize("lookahead", [False, True])
@pytest.mark.parametrize("num_blocks", [11, 64])
@pytest.mark.parametrize("prefix_cache", [False, True])
def test_tokens_do_not_depend_on_the_schedule(
    start: Start, expected: list[list[int]], lookahead: bool, num_blocks: int, prefix_cache: bool
) -> None:
    engine = start(num_blocks=num_blocks, lookahead=lookahead, prefix_cache=prefix_cache)
    assert outputs(run_all(engine, make_requests(PROMPTS, max_new_tokens=20))) == expected
    assert (engine.stats()["preemptions"] > 0) == (num_blocks == 11)
    assert engine.stats()["output_tokens"] == 120
    assert engine.pool.num_free == num_blocks


def test_requests_under_way_tell_what_is_computed(engine: PackedEngine) -> None:
    """Prompts of 130 tokens in steps of 32: what is told grows to all of them, and is no more than was computed."""
    engine.add(make_requests(PROMPTS, max_new_tokens=20))
    told, lengths = [], {number: len(prompt) for number, prompt in enumerate(PROMPTS)}
    while engine.num_unfinished:
        done = {result.id: len(result.output_ids) for result in engine.step()}
        under_way = {found.id: found for found in engine.under_way()}
        assert not done.keys() & under_way.keys()
        assert all(found.num_prompt <= lengths[id] and found.num_output < 20 for id, found in under_way.items())
        told.append(sum(found.num_prompt + found.num_output for found in under_way.values()))
    assert told[0] <= 32
    assert max(told) > sum(lengths.values())
    assert told[-1] == 0


def test_shared_prefix_is_computed_once(engine: PackedEngine, model: PreTrainedModel) -> None:
    prefix = make_prompts(33, seed=5)[0]
    prompts = [np.concatenate([prefix, tail]) for tail in make_prompts(4, 2, 7, 1, seed=6)]
    done = run_all(engine, make_requests(prompts, max_new_tokens=6))
    engine.close()
    assert outputs(done) == reference_outputs(model, prompts, 6)
    assert engine.stats()["cached_tokens"] == 3 * 32


def test_end_of_sequence_is_not_part_of_the_output(start: Start, expected: list[list[int]]) -> None:
    eos = expected[2][4]
    engine = start(eos_ids=(eos,), lookahead=True)
    done = run_all(engine, make_requests(PROMPTS, max_new_tokens=20))
    for i, tokens in enumerate(expected):
        cut = tokens.index(eos) if eos in tokens else len(tokens)
        assert done[i].output_ids.tolist() == tokens[:cut]
        assert done[i].finish_reason == ("stop" if eos in tokens else "length")


def test_stop_ids_of_one_request(engine: PackedEngine, expected: list[list[int]]) -> None:
    stop = expected[1][3]
    requests = make_requests(PROMPTS, max_new_tokens=20)
    requests[1] = GenerationRequest(
        id=1, row=1, prompt_ids=PROMPTS[1], params=SamplingParams(max_new_tokens=20, stop_ids=(stop,))
    )
    done = run_all(engine, requests)
    assert done[1].finish_reason == "stop"
    assert done[1].output_ids.tolist() == expected[1][: expected[1].index(stop)]
    assert done[2].output_ids.tolist() == expected[2]


def test_stop_strings_end_with_the_token_that_completes_them(start: Start, expected: list[list[int]]) -> None:
    tokenizer = Tokenizer(models.WordLevel({f"<{i}>": i for i in range(VOCAB)}, unk_token="<0>"))
    tokenizer.decoder = decoders.Fuse()
    first, second = expected[0][2:4]
    engine = start(tokenizer=tokenizer)
    done = run_all(engine, make_requests(PROMPTS[:1], max_new_tokens=20, stop=(f"<{first}><{second}",)))
    assert done[0].finish_reason == "stop"
    assert done[0].output_ids.tolist() == expected[0][:4]


def test_stop_strings_need_a_tokenizer(engine: PackedEngine) -> None:
    with pytest.raises(ValueError, match="tokenizer"):
        engine.add(make_requests(PROMPTS[:1], stop=("x",)))


def test_a_prompt_beyond_the_model_is_an_error_row(engine: PackedEngine, expected: list[list[int]]) -> None:
    prompts = [*PROMPTS, *make_prompts(128)]
    done = run_all(engine, make_requests(prompts, max_new_tokens=20))
    assert outputs(done)[:6] == expected
    assert done[6].finish_reason == "error"
    assert done[6].error == "the prompt has 128 tokens; prompt and output together may have 128"


def test_ids_the_model_does_not_know_are_an_error_row(engine: PackedEngine, expected: list[list[int]]) -> None:
    prompts = [PROMPTS[0], np.array([5, VOCAB], np.int32), np.array([-1], np.int32)]
    done = run_all(engine, make_requests(prompts, max_new_tokens=20))
    assert done[0].output_ids.tolist() == expected[0]
    assert all("ids that the model does not know" in done[i].error for i in (1, 2))


def test_the_output_ends_at_the_models_limit(engine: PackedEngine) -> None:
    done = run_all(engine, make_requests(make_prompts(120), max_new_tokens=50))
    assert len(done[0].output_ids) == 8
    assert done[0].finish_reason == "length"


def test_a_sequence_that_outgrows_the_cache_is_an_error_row(start: Start) -> None:
    engine = start(num_blocks=4, token_budget=64, lookahead=True)
    done = run_all(engine, make_requests(make_prompts(30, 33, 2), max_new_tokens=20))
    assert done[0].error == "the sequence reached 33 tokens; the KV cache holds 32"
    assert done[1].error == "the prompt has 33 tokens; the KV cache holds 32"
    assert len(done[2].output_ids) == 20


def test_empty_prompts_and_empty_outputs(engine: PackedEngine) -> None:
    done = run_all(engine, make_requests([np.empty(0, np.int32)]))
    assert done[0].error == "the prompt is empty"
    done = run_all(engine, make_requests(make_prompts(4), max_new_tokens=0))
    assert done[0].finish_reason == "length"
    assert len(done[0].output_ids) == 0


@pytest.mark.parametrize("num_steps", [0, 1, 3])
def test_cancelled_requests_return_nothing(engine: PackedEngine, expected: list[list[int]], num_steps: int) -> None:
    engine.add(make_requests(PROMPTS, max_new_tokens=20))
    for _ in range(num_steps):
        engine.step()
    engine.cancel([0, 2, 5, 99])
    engine.check_integrity()
    done = run_all(engine, [])
    assert sorted(done) == [1, 3, 4]
    assert outputs(done) == [expected[i] for i in (1, 3, 4)]
    assert engine.pool.num_free == engine.pool.num_blocks


def test_samples_do_not_depend_on_the_batch(engine: PackedEngine) -> None:
    sampling = {"max_new_tokens": 15, "temperature": 0.9, "top_p": 0.95, "top_k": 40, "presence_penalty": 0.3}
    requests = make_requests(PROMPTS, **sampling)
    together = outputs(run_all(engine, requests))
    alone = [outputs(run_all(engine, [request]))[0] for request in requests]
    assert alone == together
    other = outputs(run_all(engine, make_requests(PROMPTS, **{**sampling, "seed": 4})))
    assert other != together


def test_samples_of_one_row_differ(engine: PackedEngine) -> None:
    params = SamplingParams(max_new_tokens=12, temperature=1.0)
    requests = [GenerationRequest(id=i, sample=i, prompt_ids=PROMPTS[1], params=params) for i in range(4)]
    assert len({tuple(o) for o in outputs(run_all(engine, requests))}) == 4


def test_sampled_tokens_survive_preemption(start: Start) -> None:
    results = []
    for num_blocks in (64, 11):
        engine = start(num_blocks=num_blocks, lookahead=True)
        requests = make_requests(PROMPTS, max_new_tokens=20, temperature=0.8, repetition_penalty=1.2, logprobs=True)
        results.append(run_all(engine, requests))
    assert outputs(results[0]) == outputs(results[1])


def test_logprobs_are_the_models_own(engine: PackedEngine, model: PreTrainedModel) -> None:
    done = run_all(engine, make_requests(PROMPTS[1:2], max_new_tokens=5, logprobs=True))
    ids = np.concatenate([PROMPTS[1], done[0].output_ids]).astype(np.int64)
    engine.close()
    with torch.inference_mode():
        logits = model(torch.from_numpy(ids)[None]).logits[0, len(PROMPTS[1]) - 1 : -1]
    want = logits.log_softmax(-1).gather(-1, torch.from_numpy(ids[len(PROMPTS[1]) :])[:, None])[:, 0]
    np.testing.assert_allclose(done[0].logprobs, want.numpy(), atol=1e-4)


def test_out_of_memory_shrinks_and_runs_again(
    start: Start, expected: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = start(token_budget=128)
    launch, calls = engine.runner.launch, []

    def failing(*args):
        calls.append(None)
        if len(calls) == 4:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return launch(*args)

    monkeypatch.setattr(engine.runner, "launch", failing)
    assert outputs(run_all(engine, make_requests(PROMPTS, max_new_tokens=20))) == expected
    assert engine.scheduler.token_budget == 64
    assert engine.stats()["out_of_memory"] == 1


def test_close_gives_the_model_back(model: PreTrainedModel) -> None:
    before = (model.config._attn_implementation, sorted(model.state_dict()))
    engine = PackedEngine(model, None, [], PackedOptions(num_blocks=8))
    with pytest.raises(ValueError, match="close it first"):
        PackedEngine(model, None, [])
    engine.close()
    assert (model.config._attn_implementation, sorted(model.state_dict())) == before
    assert not any(hasattr(module, "packed_keys") for module in model.modules())


def test_describe_names_what_ran(engine: PackedEngine) -> None:
    about = engine.describe()
    assert (about["backend"], about["attention"], about["dtype"]) == ("packed", "sdpa", "float32")


def test_options_say_what_is_allowed() -> None:
    with pytest.raises(ValueError, match="choose one of"):
        PackedOptions(attention="flash")
    with pytest.raises(ValueError, match="at least 1"):
        PackedOptions(token_budget=0)
