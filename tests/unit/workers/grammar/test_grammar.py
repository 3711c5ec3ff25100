"""Grammars as text, compiled, and as masks over a tiny vocabulary."""

from __future__ import annotations

import json
import random

import pytest
import torch
from tokenizers import Tokenizer

from parquetry.schemas.errors import ExitCode, GrammarError
from parquetry.schemas.spec.generation import GenerationSpec
from parquetry.workers.grammar.bitmask import apply_bitmask
from parquetry.workers.grammar.grammar import Grammar
from parquetry.workers.grammar.matcher import GrammarCompiler

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 9, "minimum": 0}}, "required": ["n"]}


@pytest.fixture(scope="module")
def tokenizer(causal_lm) -> Tokenizer:
    return Tokenizer.from_file(str(causal_lm / "tokenizer.json"))


@pytest.fixture(scope="module")
def eos(tokenizer: Tokenizer) -> int:
    return tokenizer.token_to_id("<|im_end|>")


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer, eos: int) -> GrammarCompiler:
    # logits are often wider than the vocabulary
    return GrammarCompiler(tokenizer, tokenizer.get_vocab_size() + 40, [eos])


def allowed_ids(compiler: GrammarCompiler, row) -> list[int]:
    logits = apply_bitmask(torch.zeros(1, compiler.vocab_size), torch.from_numpy(compiler.masks([row])))
    return logits[0].isfinite().nonzero()[:, 0].tolist()


def random_walk(compiler: GrammarCompiler, text: str, eos: int, seed: int, limit: int = 200) -> list[int]:
    """Ids of an output whose every token is drawn from those the mask allows."""
    row, chosen, draw = compiler.start(text), [], random.Random(seed)
    while len(chosen) < limit:
        token = draw.choice(allowed_ids(compiler, row))
        if token == eos:
            break
        chosen.append(token)
        if row.push(token):
            break
    assert row.error is None
    return chosen


def test_a_grammar_survives_its_text() -> None:
    asked = {"json_schema": SCHEMA}, {"regex": "[a-z]+"}, {"choices": ["yes", "no"]}
    for generation in (GenerationSpec(**fields) for fields in asked):
        grammar = Grammar.of(generation)
        assert Grammar.parse(grammar.text) == grammar
    assert Grammar.of(GenerationSpec()) is None


def test_equal_schemas_have_equal_text() -> None:
    turned = dict(reversed(list(SCHEMA.items())))
    assert Grammar("json_schema", turned).text == Grammar("json_schema", SCHEMA).text


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        (Grammar("json_schema", {"type": "strin"}), "Invalid type: strin"),
        (Grammar("json_schema", {"type": "array", "uniqueItems": True}), "uniqueItems"),
        (Grammar("json_schema", {"$ref": "#/nope"}), "/nope"),
        (Grammar("json_schema", {"type": "integer", "minimum": 5, "maximum": 3}), "minimum"),
        (Grammar("regex", "[a-z]("), "unclosed group"),
        (Grammar("regex", "(?=a)b"), "look-around"),
        (Grammar("choices", []), "empty"),
    ],
)
def test_what_cannot_be_compiled_is_refused_in_one_sentence(grammar: Grammar, reason: str) -> None:
    with pytest.raises(GrammarError) as caught:
        grammar.check()
    message = str(caught.value)
    assert reason in message and "\n" not in message
    assert caught.value.exit_code == ExitCode.BAD_INPUT


def test_the_compiler_refuses_too(compiler: GrammarCompiler) -> None:
    with pytest.raises(GrammarError):
        compiler.start(Grammar("regex", "(").text)


def test_each_grammar_is_compiled_once(compiler: GrammarCompiler) -> None:
    text = Grammar("regex", "once").text
    before = compiler.num_compiled
    compiler.start(text)
    compiler.start(text)
    assert compiler.num_compiled == before + 1


@pytest.mark.parametrize("seed", range(20))
def test_every_walk_through_a_schema_is_a_document(
    compiler: GrammarCompiler, tokenizer: Tokenizer, eos: int, seed: int
) -> None:
    import jsonschema

    ids = random_walk(compiler, Grammar("json_schema", SCHEMA | {"additionalProperties": False}).text, eos, seed)
    jsonschema.validate(json.loads(tokenizer.decode(ids)), SCHEMA)


def test_choices_are_written_whole(compiler: GrammarCompiler, tokenizer: Tokenizer, eos: int) -> None:
    choices = ["yes", "no", 'may"be', "no way\n", "é", "😀", "a\\b", "/x/ | y"]
    text = Grammar("choices", choices).text
    written = {tokenizer.decode(random_walk(compiler, text, eos, seed)) for seed in range(80)}
    assert written == set(choices)


def test_a_tokenizer_may_know_more_tokens_than_the_model(tokenizer: Tokenizer, eos: int) -> None:
    compiler = GrammarCompiler(tokenizer, tokenizer.get_vocab_size() - 1, [eos])
    row = compiler.start(Grammar("choices", ["ab"]).text)
    logits = apply_bitmask(torch.zeros(1, tokenizer.get_vocab_size() - 1), torch.from_numpy(compiler.masks([row])))
    assert logits.shape[-1] == tokenizer.get_vocab_size() - 1
    assert tokenizer.token_to_id("a") in logits[0].isfinite().nonzero()[:, 0].tolist()


def test_a_whole_text_ends_the_row(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    row = compiler.start(Grammar("regex", "ab").text)
    a, b = (tokenizer.token_to_id(letter) for letter in "ab")
    assert [row.push(a), row.push(b), row.push(a)] == [False, True, False]
    assert row.error is None


def test_the_end_token_is_allowed_where_the_text_may_end(compiler: GrammarCompiler, tokenizer: Tokenizer, eos: int):
    row = compiler.start(Grammar("regex", "a+").text)
    assert eos not in allowed_ids(compiler, row)
    row.push(tokenizer.token_to_id("a"))
    assert eos in allowed_ids(compiler, row)


def test_a_token_the_mask_ruled_out_is_an_error(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    row = compiler.start(Grammar("regex", "ab").text)
    row.push(tokenizer.token_to_id("b"))
    assert "could not be followed" in row.error


def test_rows_without_a_grammar_are_free(compiler: GrammarCompiler) -> None:
    masks = compiler.masks([None, compiler.start(Grammar("regex", "a").text)])
    assert (masks[0] == -1).all() and not (masks[1] == -1).any()


def test_bits_are_counted_from_the_low_end() -> None:
    masks = torch.tensor([[0b101, 1], [-(2**31), 0]], dtype=torch.int32)
    allowed = apply_bitmask(torch.zeros(2, 40), masks).isfinite()
    assert allowed[0].nonzero()[:, 0].tolist() == [0, 2, 32]
    assert allowed[1].nonzero()[:, 0].tolist() == [31]
