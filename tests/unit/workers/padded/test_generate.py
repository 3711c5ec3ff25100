"""The padded generator against transformers itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.hosting.engine_choice import load_engine
from parquetry.workers.padded.generate import TransformersGenerate
from parquetry.workers.preparation.tokenization import Tokenizer
from parquetry.workers.request import GenerationRequest, SamplingParams

PROMPTS = ["hello", "the quick brown fox jumps over the lazy dog", "", "a table", "\x00", "😀"]


@pytest.fixture(scope="module")
def spec(causal_lm):
    model = ModelSpec(id=str(causal_lm), backend="transformers")
    return EngineSpec(task="generate", model_path=str(causal_lm), model=model)


@pytest.fixture
def engine(spec):
    return load_engine(spec)


@pytest.fixture(scope="module")
def prompts(causal_lm) -> list[np.ndarray]:
    encoded = Tokenizer.load(causal_lm).encode(
        [f"<s>{text}" for text in PROMPTS], special_tokens=False, limit=200, truncate="error"
    )
    return [tokens.ids for tokens in encoded]


@pytest.fixture(scope="module")
def reference(causal_lm):
    return AutoModelForCausalLM.from_pretrained(causal_lm).eval()


def run(engine, requests) -> dict:
    engine.add(requests)
    results = []
    while engine.num_unfinished:
        results += engine.step()
    assert len(results) == len({result.id for result in results})
    return {result.id: result for result in results}


def requests_of(prompts, **params) -> list[GenerationRequest]:
    sampling = SamplingParams(**{"max_new_tokens": 12, **params})
    return [GenerationRequest(id=i, prompt_ids=ids, row=i, params=sampling) for i, ids in enumerate(prompts)]


def outputs(results: dict) -> list[list[int]]:
    return [results[id].output_ids.tolist() for id in sorted(results)]


def test_greedy_rows_equal_generate_row_by_row(engine, prompts, reference):
    found = outputs(run(engine, requests_of(prompts)))

    for ids, row in zip(prompts, found, strict=True):
        inputs = torch.from_numpy(ids.astype(np.int64))[None]
        expected = reference.generate(
            inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=12, do_sample=False
        )
        assert row == [token for token in expected[0, len(ids) :].tolist() if token != 3]


@pytest.mark.parametrize(
    "params", [{}, {"temperature": 1.0, "seed": 4}, {"temperature": 0.7, "top_k": 20, "top_p": 0.9}]
)
def test_a_row_does_not_depend_on_its_batch(spec, prompts, params):
    together = outputs(run(load_engine(spec), requests_of(prompts, **params)))
    alone = outputs(run(load_engine(spec.model_copy(update={"token_budget": 1})), requests_of(prompts, **params)))

    assert together == alone


def test_seeds_rows_and_samples_differ(engine, prompts):
    def one(**fields):
        params = SamplingParams(max_new_tokens=12, temperature=1.5, seed=fields.pop("seed", 0))
        request = GenerationRequest(id=0, prompt_ids=prompts[0], params=params, **fields)
        return tuple(run(engine, [request])[0].output_ids.tolist())

    assert one() == one()
    assert len({one(), one(seed=1), one(row=1), one(sample=1)}) == 4


def test_each_row_has_its_own_length_and_the_rest_goes_on(engine, prompts):
    requests = [
        GenerationRequest(id=i, prompt_ids=prompts[1], params=SamplingParams(max_new_tokens=n))
        for i, n in enumerate((1, 5, 9))
    ]

    results = run(engine, requests)

    assert [len(results[i].output_ids) for i in range(3)] == [1, 5, 9]
    assert {result.finish_reason for result in results.values()} == {"length"}
    assert outputs(results)[2][:5] == outputs(results)[1]


def test_stop_ids_and_end_of_sequence_are_not_part_of_the_output(engine, prompts):
    free = outputs(run(engine, requests_of(prompts)))[1]
    stop = free[6]

    result = run(engine, requests_of(prompts[1:2], stop_ids=(stop,)))[0]

    assert result.output_ids.tolist() == free[: free.index(stop)]
    assert result.finish_reason == "stop"


def test_stop_strings_end_a_row_with_the_token_that_completes_them(engine, prompts, causal_lm):
    tokenizer = Tokenizer.load(causal_lm)
    free = outputs(run(engine, requests_of(prompts, max_new_tokens=40)))[1]
    # a string over two tokens, of the part of the text that is plain ASCII
    texts = tokenizer.decode([[token] for token in free])
    at = next(i for i in range(2, 38) if (texts[i] + texts[i + 1]).isascii() and texts[i] and texts[i + 1])
    word = texts[at][-1] + texts[at + 1][0]

    result = run(engine, requests_of(prompts[1:2], max_new_tokens=40, stop=(word,)))[0]

    text = tokenizer.decode([result.output_ids])[0]
    assert result.finish_reason == "stop"
    assert word in text
    assert word not in tokenizer.decode([result.output_ids[:-1]])[0]


def test_logprobs_are_those_of_the_model(engine, prompts, reference):
    result = run(engine, requests_of(prompts[1:2], logprobs=True, temperature=1.0))[0]

    sequence = torch.from_numpy(np.concatenate([prompts[1], result.output_ids]).astype(np.int64))[None]
    with torch.inference_mode():
        expected = reference(sequence).logits[0].log_softmax(-1)
    positions = torch.arange(len(prompts[1]) - 1, sequence.shape[1] - 1)
    np.testing.assert_allclose(result.logprobs, expected[positions, sequence[0, len(prompts[1]) :]], atol=1e-4)


def test_repetition_penalty_equals_that_of_generate(engine, prompts, reference):
    inputs = torch.from_numpy(prompts[1].astype(np.int64))[None]
    expected = reference.generate(
        inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=12, do_sample=False, repetition_penalty=1.7
    )

    found = outputs(run(engine, requests_of(prompts[1:2], repetition_penalty=1.7)))[0]

    assert found == [token for token in expected[0, len(prompts[1]) :].tolist() if token != 3]


def test_what_the_model_cannot_take_is_a_row_error(engine, prompts):
    bad = [np.empty(0, np.int32), np.array([10**6], np.int32), np.array([-1], np.int32)]

    results = run(engine, requests_of([*bad, prompts[0]]))

    assert ["tok" in (results[i].error or "") for i in range(4)] == [True, True, True, False]


def test_cancelled_rows_give_no_result(engine, prompts):
    engine.add(requests_of(prompts))

    engine.cancel([0, 1, 99])

    assert sorted(run(engine, [])) == [2, 3, 4, 5]


def test_cancelling_from_inside_a_step_ends_the_rows(spec, prompts):
    loaded: list[TransformersGenerate] = []

    def cancel() -> None:
        # loading sends pulses as well
        for engine in loaded:
            engine.cancel([0, 2])

    loaded.append(load_engine(spec, send_pulse=cancel))

    results = run(loaded[0], requests_of(prompts[:3], max_new_tokens=100))

    assert sorted(results) == [1]
    assert len(results[1].output_ids) == 100


def test_out_of_memory_halves_the_batch_and_no_row_is_lost(engine, prompts, monkeypatch):
    expected = outputs(run(engine, requests_of(prompts)))
    generate = engine.model.generate

    def fails_above_two_rows(**inputs):
        if len(inputs["input_ids"]) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return generate(**inputs)

    monkeypatch.setattr(engine.model, "generate", fails_above_two_rows)

    assert outputs(run(engine, requests_of(prompts))) == expected
    assert engine.stats()["out_of_memory"] > 0


def test_a_row_that_never_fits_is_an_error_row(engine, prompts, monkeypatch):
    def fails(**inputs):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(engine.model, "generate", fails)

    results = run(engine, requests_of(prompts[:2]))

    assert all("out of memory on this row alone" in result.error for result in results.values())


def test_the_checkpoints_own_sampling_defaults_do_not_leak(tmp_path, causal_lm, prompts, engine):
    import json
    import shutil

    folder = shutil.copytree(causal_lm, tmp_path / "model")
    config = json.loads((folder / "generation_config.json").read_text())
    config |= {"do_sample": True, "temperature": 5.0, "repetition_penalty": 3.0, "max_length": 5}
    (folder / "generation_config.json").write_text(json.dumps(config))
    model = ModelSpec(id=str(folder), backend="transformers")
    other = load_engine(EngineSpec(task="generate", model_path=str(folder), model=model))

    assert outputs(run(other, requests_of(prompts))) == outputs(run(engine, requests_of(prompts)))


def test_description(engine):
    about = engine.describe()

    assert (about["backend"], about["dtype"], about["device"]) == ("transformers", "float32", "cpu")
