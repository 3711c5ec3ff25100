"""Grammars inside both generation engines: every row valid, whatever shares its batch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import numpy as np
import pytest
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.engine import Engine
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.grammar.grammar import Grammar
from parquetry.workers.hosting.engine_choice import load_engine
from parquetry.workers.loading.model import load_model
from parquetry.workers.request import Completion, GenerationRequest, SamplingParams

SCHEMA = {
    "type": "object",
    "properties": {
        "label": {"enum": ["good", "bad"]},
        "score": {"type": "integer", "minimum": 0, "maximum": 99},
        "words": {"type": "array", "items": {"type": "string", "maxLength": 4}, "maxItems": 2},
    },
    "required": ["label", "score", "words"],
    "additionalProperties": False,
}
JSON = Grammar("json_schema", SCHEMA).text


@pytest.fixture(scope="module", params=["packed", "transformers"])
def engine(request: pytest.FixtureRequest, causal_lm) -> Iterator[Engine]:
    model = ModelSpec(id=str(causal_lm), backend=request.param)
    yield load_engine(EngineSpec(task="generate", model_path=str(causal_lm), model=model, token_budget=2048))


@pytest.fixture(scope="module")
def tokenizer(causal_lm) -> Tokenizer:
    return Tokenizer.from_file(str(causal_lm / "tokenizer.json"))


def request(row: int, grammar: str | None, **params: object) -> GenerationRequest:
    prompt = np.asarray([5 + row % 200, 6, 7 + row % 11], dtype=np.int32)
    settings = SamplingParams(grammar=grammar, **{"max_new_tokens": 80, **params})
    return GenerationRequest(id=row, row=row, prompt_ids=prompt, params=settings)


def complete(engine: Engine, requests: list[GenerationRequest]) -> dict[int, Completion]:
    engine.add(requests)
    done: dict[int, Completion] = {}
    while engine.num_unfinished:
        done.update((result.id, result) for result in engine.step())
    return done


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_every_row_is_a_document(engine: Engine, tokenizer: Tokenizer, temperature: float) -> None:
    import jsonschema

    done = complete(engine, [request(row, JSON, temperature=temperature, seed=3) for row in range(100)])
    documents = [tokenizer.decode(result.output_ids.tolist()) for result in done.values()]
    for document in documents:
        jsonschema.validate(json.loads(document), SCHEMA)
    assert {result.finish_reason for result in done.values()} == {"stop"}
    assert len(set(documents)) > 1


def test_free_rows_beside_it_stay_as_they_are(engine: Engine) -> None:
    rows = [request(row, None, max_new_tokens=12, temperature=0.8) for row in range(6)]
    alone = complete(engine, rows)
    mixed = complete(engine, rows + [request(row, JSON) for row in range(6, 12)])
    for row in range(6):
        assert mixed[row].output_ids.tolist() == alone[row].output_ids.tolist()


def test_a_text_complete_at_its_last_token_is_whole(engine: Engine, tokenizer: Tokenizer) -> None:
    done = complete(engine, [request(0, Grammar("regex", "[xyz]{3}").text, max_new_tokens=3)])[0]
    assert re.fullmatch("[xyz]{3}", tokenizer.decode(done.output_ids.tolist()))
    assert done.finish_reason == "stop"


def test_a_text_cut_short_says_so(engine: Engine) -> None:
    assert complete(engine, [request(0, JSON, max_new_tokens=2)])[0].finish_reason == "length"


def test_a_bad_grammar_is_an_error_of_its_row_alone(engine: Engine) -> None:
    done = complete(engine, [request(0, Grammar("regex", "(").text), request(1, None, max_new_tokens=3)])
    assert done[0].finish_reason == "error" and "cannot be compiled" in done[0].error
    assert done[1].error is None


def test_stop_strings_work_beside_a_grammar(engine: Engine, tokenizer: Tokenizer) -> None:
    done = complete(engine, [request(0, Grammar("regex", "a{5}b{5}").text, stop=("bb",))])[0]
    assert tokenizer.decode(done.output_ids.tolist()).startswith("aaaaabb")
    assert done.finish_reason == "stop" and len(done.output_ids) < 10


def test_logprobs_are_the_bare_models(engine: Engine) -> None:
    done = complete(engine, [request(0, Grammar("regex", "zq").text, logprobs=True)])[0]
    assert (done.logprobs < -0.1).any()


def test_preempted_rows_stay_valid(causal_lm, tokenizer: Tokenizer) -> None:
    import jsonschema

    from parquetry.workers.packed.options import PackedOptions
    from parquetry.workers.packed.packed_engine import PackedEngine

    spec = EngineSpec(task="generate", model_path=str(causal_lm), model=ModelSpec(id=str(causal_lm)))
    checkpoint = Checkpoint.resolve(spec.model)
    weights = load_model(spec, checkpoint, AutoModelForCausalLM)
    options = PackedOptions(max_num_seqs=8, num_blocks=12, block_size=8, lookahead=True, prefix_cache=False)
    engine = PackedEngine(weights, tokenizer, checkpoint.eos_ids, options)
    done = complete(engine, [request(row, JSON, temperature=1.0, max_new_tokens=60) for row in range(12)])
    assert engine.stats()["preemptions"] > 0
    for result in done.values():
        jsonschema.validate(json.loads(tokenizer.decode(result.output_ids.tolist())), SCHEMA)
    engine.check_integrity()
