"""Encoder-decoders through the padded generator, against transformers' own generate, row by row."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import tokenizers
import torch
from transformers import AutoModelForSeq2SeqLM

from parquetry.schemas.errors import InvalidValueError, RowError, UnsupportedOptionError
from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.grammar.grammar import Grammar
from parquetry.workers.hosting.engine_choice import load_engine
from parquetry.workers.padded.decoder_prefix import decoder_prefix
from parquetry.workers.padded.generate import TransformersGenerate
from parquetry.workers.preparation.preparation_choice import choose_preparation
from parquetry.workers.preparation.tokenization import Tokenizer
from parquetry.workers.request import GenerationRequest, SamplingParams
from tests.models import write_seq2seq
from tests.unit.workers.workers_records import make_record, write_table

FAMILIES = ["t5", "bart", "mbart", "marian"]
TEXTS = ["a table", "the quick brown fox jumps over the lazy dog", "", "\U0001f600", "good bad fine great"]


class Case:
    """One family's folder, its engine, its prompts and the model as transformers loads it."""

    def __init__(self, folder) -> None:
        self.folder = folder
        self.spec = EngineSpec(task="generate", model_path=str(folder), model=ModelSpec(id=str(folder)))
        self.engine = load_engine(self.spec)
        self.tokenizer = Tokenizer.load(folder)
        encoded = self.tokenizer.encode(TEXTS, special_tokens=True, limit=64, truncate="error")
        self.prompts = [tokens.ids for tokens in encoded]
        self.reference = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
        # it overwrites the last token of a row that reached its length
        self.reference.generation_config.forced_eos_token_id = None
        self.eos = Checkpoint.resolve(ModelSpec(id=str(folder))).eos_ids

    def run(self, engine=None, prompts=None, **params):
        engine, prompts = engine or self.engine, self.prompts if prompts is None else prompts
        sampling = SamplingParams(**{"max_new_tokens": 10, **params})
        engine.add([GenerationRequest(id=i, prompt_ids=ids, row=i, params=sampling) for i, ids in enumerate(prompts)])
        results = []
        while engine.num_unfinished:
            results += engine.step()
        return sorted(results, key=lambda result: result.id)

    def expected(self, ids: np.ndarray, num_tokens: int, **options) -> list[int]:
        """What generate makes of one row, from the first token of its own to the end of sequence."""
        inputs = torch.from_numpy(ids.astype(np.int64))[None]
        given = 1 + (self.reference.generation_config.forced_bos_token_id is not None)
        options = {"do_sample": False, "num_beams": 1, "max_new_tokens": num_tokens + given - 1, **options}
        found = self.reference.generate(inputs, attention_mask=torch.ones_like(inputs), **options)[0, given:].tolist()
        ends = [index for index, token in enumerate(found) if token in self.eos]
        return found[: ends[0]] if ends else found


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Makes a family's case once."""
    made = {}

    def case(family: str) -> Case:
        if family not in made:
            made[family] = Case(write_seq2seq(tmp_path_factory.mktemp("seq2seq") / family, family))
        return made[family]

    return case


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_rows_equal_generate_row_by_row(cases, family):
    case = cases(family)

    found = [result.output_ids.tolist() for result in case.run()]

    assert found == [case.expected(ids, 10) for ids in case.prompts]
    assert len({tuple(row) for row in found}) > 1, "the outputs do not depend on the prompts"


@pytest.mark.parametrize("family", ["bart", "marian"])
def test_a_second_engine_on_the_same_weights_starts_alike(cases, family):
    case = cases(family)
    pad_id = Checkpoint.resolve(ModelSpec(id=str(case.folder))).pad_id
    options = {"eos_ids": case.eos, "pad_id": pad_id, "token_budget": 1000}
    model = AutoModelForSeq2SeqLM.from_pretrained(case.folder).eval()
    tokenizer = tokenizers.Tokenizer.from_file(str(case.folder / "tokenizer.json"))

    prefix = decoder_prefix(model)
    TransformersGenerate(model, tokenizer, **options)
    assert decoder_prefix(model) == prefix
    second = TransformersGenerate(model, tokenizer, **options)
    assert decoder_prefix(model) == prefix
    assert [r.output_ids.tolist() for r in case.run(second)] == [r.output_ids.tolist() for r in case.run()]
    assert second.model.generation_config.bad_words_ids == case.engine.model.generation_config.bad_words_ids


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_a_row_does_not_depend_on_its_batch(cases, family):
    case = cases(family)
    alone = load_engine(case.spec.model_copy(update={"token_budget": 1}))
    params = {"temperature": 0.9, "top_p": 0.95, "seed": 3}

    together = [result.output_ids.tolist() for result in case.run(**params)]

    assert together == [result.output_ids.tolist() for result in case.run(alone, **params)]
    assert together != [result.output_ids.tolist() for result in case.run(**{**params, "seed": 4})]


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_logprobs_are_those_of_the_model(cases, family):
    case = cases(family)
    ids = case.prompts[1]

    result = case.run(prompts=[ids], logprobs=True, temperature=1.0)[0]

    config = case.reference.generation_config
    prefix = [t for t in (config.decoder_start_token_id, config.forced_bos_token_id) if t is not None]
    decoder = torch.tensor([[*prefix, *result.output_ids.tolist()]])
    with torch.inference_mode():
        logits = case.reference(torch.from_numpy(ids.astype(np.int64))[None], decoder_input_ids=decoder).logits[0]
    positions = torch.arange(len(prefix) - 1, decoder.shape[1] - 1)
    expected = logits.log_softmax(-1)[positions, decoder[0, len(prefix) :]]
    np.testing.assert_allclose(result.logprobs, expected, atol=1e-4)


def test_repetition_penalty_counts_what_the_decoder_wrote_as_generate_does(cases):
    case = cases("t5")

    found = case.run(repetition_penalty=1.7)

    expected = [case.expected(ids, 10, repetition_penalty=1.7) for ids in case.prompts]
    assert [result.output_ids.tolist() for result in found] == expected


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_a_grammar_is_followed_from_the_first_token_on(cases, family):
    case = cases(family)

    results = case.run(grammar=Grammar("regex", "(yes|no)[0-9]{2}").text, max_new_tokens=20)

    texts = case.tokenizer.decode([result.output_ids for result in results])
    assert all(text[:-2] in ("yes", "no") and text[-2:].isdigit() for text in texts)
    assert {result.finish_reason for result in results} == {"stop"}


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_stop_strings_and_lengths_end_their_own_row_only(cases, family):
    case = cases(family)
    free = case.run(max_new_tokens=20)
    texts = case.tokenizer.decode([[token] for token in free[1].output_ids])
    word = next(text for text in texts[2:] if text.strip() and text.isascii())

    stopped = case.run(max_new_tokens=20, stop=(word,))[1]

    assert word in case.tokenizer.decode([stopped.output_ids])[0]
    assert word not in case.tokenizer.decode([stopped.output_ids[:-1]])[0]
    assert stopped.finish_reason == "stop"
    assert {result.finish_reason for result in case.run(max_new_tokens=1)} <= {"length", "stop"}


def test_a_batch_holds_what_the_budget_allows_of_prompt_and_output(cases, monkeypatch):
    case = cases("t5")
    engine = load_engine(case.spec.model_copy(update={"token_budget": 100}))
    sizes, generate = [], engine.model.generate
    monkeypatch.setattr(engine.model, "generate", lambda **inputs: sizes.append(inputs) or generate(**inputs))

    case.run(engine, max_new_tokens=10)

    each = [len(inputs["input_ids"]) * (inputs["input_ids"].shape[1] + 10) for inputs in sizes]
    assert len(sizes) > 1
    assert all(tokens <= 100 or len(inputs["input_ids"]) == 1 for tokens, inputs in zip(each, sizes, strict=True))
    widths = [inputs["input_ids"].shape[1] for inputs in sizes]
    assert widths == sorted(widths, reverse=True)


def prepared(case: Case, tmp_path, texts, **spec):
    record = make_record([write_table(tmp_path / "in.parquet", {"text": texts})], **spec)
    checkpoint = Checkpoint.resolve(ModelSpec(id=str(case.folder)))
    return choose_preparation(record, checkpoint, case.tokenizer).tokens(pa.record_batch({"text": texts}))


def test_the_encoders_window_is_for_the_prompt_alone(cases, tmp_path):
    texts = ["a " * 61 + "b", "a " * 200]
    options = {"generation": {"max_new_tokens": 62}}

    fits, refused = prepared(cases("bart"), tmp_path, texts, **options)

    assert len(fits.ids) == 64
    assert isinstance(refused, RowError)
    assert "but at most 64 fit into the model's encoder; shorten it, or set prompt.truncate" in str(refused)


@pytest.mark.parametrize("side", ["left", "right"])
def test_truncation_keeps_the_special_tokens(cases, tmp_path, side):
    case = cases("bart")
    prompt = {"prompt": {"template": "{{ text }}", "truncate": side}, "generation": {"max_new_tokens": 5}}

    (tokens,) = prepared(case, tmp_path, ["a b " * 100], **prompt)

    ids = {name: case.tokenizer.id_of(name) for name in ("<s>", "</s>")}
    assert (len(tokens.ids), tokens.ids[0], tokens.ids[-1]) == (64, ids["<s>"], ids["</s>"])


def test_windows_of_both_sides(cases, tmp_path):
    t5, bart = (Checkpoint.resolve(ModelSpec(id=str(cases(family).folder))) for family in ("t5", "bart"))

    assert bart.output_context_window == 64
    assert t5.output_context_window >= 1 << 20, "relative positions set no bound"
    with pytest.raises(InvalidValueError, match="the model's decoder has room for 62 tokens"):
        prepared(cases("bart"), tmp_path, ["a"], generation={"max_new_tokens": 63})


def test_the_packed_engine_is_refused(cases):
    case = cases("t5")

    with pytest.raises(UnsupportedOptionError, match=r"model\.backend packed is not supported"):
        load_engine(case.spec.model_copy(update={"model": ModelSpec(id=str(case.folder), backend="packed")}))


def test_a_checkpoint_that_names_no_start_is_refused(tmp_path):
    folder = write_seq2seq(tmp_path / "t5", "t5", decoder_start_token_id=None)

    with pytest.raises(UnsupportedOptionError, match="names no decoder_start_token_id"):
        Case(folder)
