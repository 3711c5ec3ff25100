"""Token ids as transformers makes them, within the limit, whatever the text holds."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tokenizers
from tokenizers import models, processors

from parquetry.schemas.errors import MissingTokenizerError, RowError
from parquetry.workers.preparation.tokenization import Tokenizer, Tokens

TEXTS = ["the quick brown fox", "", "\x00", "😀 é", "a" * 50, " \n\t"]


@pytest.fixture(scope="module")
def byte_level(causal_lm) -> Tokenizer:
    return Tokenizer.load(causal_lm)


@pytest.fixture(scope="module")
def word_piece(classifier) -> Tokenizer:
    return Tokenizer.load(classifier)


def encode(tokenizer: Tokenizer, texts, *, limit=64, truncate="error", special_tokens=True):
    return tokenizer.encode(texts, special_tokens=special_tokens, limit=limit, truncate=truncate)


@pytest.mark.parametrize("special", [True, False])
def test_ids_are_those_of_transformers(classifier, word_piece, special):
    from tests.models import load_tokenizer

    reference = load_tokenizer(classifier)
    for text, tokens in zip(TEXTS, encode(word_piece, TEXTS, special_tokens=special), strict=True):
        assert tokens.ids.tolist() == reference(text, add_special_tokens=special)["input_ids"]
        assert tokens.ids.dtype == np.int32


@pytest.mark.parametrize("limit", [3, 4, 5, 8, 11, 64])
def test_pairs_are_those_of_transformers(classifier, word_piece, limit):
    from tests.models import load_tokenizer

    reference = load_tokenizer(classifier)
    pairs = [("the fox", "a table of rows"), ("a table of rows and a model", "dog"), ("", "x"), ("the dog", "the dog")]
    for pair, tokens in zip(pairs, word_piece.encode_pairs(pairs, limit=limit, truncate="right"), strict=True):
        expected = reference(*pair, truncation=True, max_length=limit)
        assert tokens.ids.tolist() == expected["input_ids"]
        assert tokens.type_ids.tolist() == expected["token_type_ids"]


def test_truncation_keeps_the_special_tokens(word_piece):
    whole = encode(word_piece, ["the quick brown fox jumps over the lazy dog"])[0].ids

    right = encode(word_piece, ["the quick brown fox jumps over the lazy dog"], limit=5, truncate="right")[0].ids
    left = encode(word_piece, ["the quick brown fox jumps over the lazy dog"], limit=5, truncate="left")[0].ids

    assert right.tolist() == [*whole[:4], whole[-1]]
    assert left.tolist() == [whole[0], *whole[-4:]]


def test_a_long_text_is_an_error_with_both_numbers(byte_level):
    (error,) = byte_level.encode(["zzzzzz"], special_tokens=False, limit=2, truncate="error", why=" here")

    assert str(error) == "6 tokens, but at most 2 fit here"


@pytest.mark.parametrize(("lengths", "kept"), [((10, 3), (5, 3)), ((3, 10), (3, 5)), ((9, 9), (4, 4))])
def test_the_longer_text_of_a_pair_is_cut_first(word_piece, lengths, kept):
    pair = tuple(" ".join(["dog"] * length) for length in lengths)

    # [CLS] and two [SEP] beside 8 tokens of the texts
    (tokens,) = word_piece.encode_pairs([pair], limit=11, truncate="right")

    assert np.bincount(tokens.type_ids).tolist() == [kept[0] + 2, kept[1] + 1]


def test_half_a_surrogate_pair_is_that_rows_error_only(byte_level):
    good, bad = encode(byte_level, ["ok", "\ud83d"])

    assert isinstance(good, Tokens)
    assert isinstance(bad, RowError)


def test_bytes_survive_the_round_trip(byte_level):
    texts = ["nul \x00 byte", "emoji 😀", "tab\tnew\nline"]

    assert byte_level.decode([tokens.ids for tokens in encode(byte_level, texts)]) == texts


def test_special_tokens_are_left_out_of_decoded_text(byte_level):
    end = byte_level.id_of("<|im_end|>")

    assert byte_level.decode([[end, *encode(byte_level, ["hi"])[0].ids, end]]) == ["hi"]


def test_padding_and_truncation_in_the_file_are_switched_off(tmp_path, classifier):
    import tokenizers

    raw = tokenizers.Tokenizer.from_file(str(classifier / "tokenizer.json"))
    raw.enable_padding(length=16)
    raw.enable_truncation(4)
    raw.save(str(tmp_path / "tokenizer.json"))

    (tokens,) = encode(Tokenizer.load(tmp_path), ["the quick brown fox jumps"])

    assert len(tokens.ids) == len(encode(Tokenizer.load(classifier), ["the quick brown fox jumps"])[0].ids)


def test_a_folder_without_tokenizer(tmp_path):
    with pytest.raises(MissingTokenizerError):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("around", [(), ("</s>",), ("<s>", "</s>")])
@pytest.mark.parametrize("flags", [(), ("add_bos_token",), ("add_eos_token",), ("add_bos_token", "add_eos_token")])
def test_tokens_of_the_settings_are_added_once(tmp_path, around, flags):
    tiny = pytest.importorskip("tests.models", reason="torch is not installed")
    tiny.byte_tokenizer(chat=False, around=around, more=() if around else ("</s>",)).save_pretrained(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    named = {"bos_token": "<s>", "eos_token": "</s>"}
    file.write_text(json.dumps({**json.loads(file.read_text()), **named, **dict.fromkeys(flags, True)}))
    tokenizer = Tokenizer.load(tmp_path)
    begin, end = tokenizer.id_of("<s>"), tokenizer.id_of("</s>")
    first = [begin] * ("<s>" in around or "add_bos_token" in flags)
    last = [end] * ("</s>" in around or "add_eos_token" in flags)

    def ids(text, **options):
        options = {"special_tokens": True, "limit": 50, "truncate": "error", **options}
        return tokenizer.encode([text], **options)[0].ids.tolist()

    bare = ids("the fox", special_tokens=False)
    assert begin not in bare and end not in bare
    assert ids("the fox") == [*first, *bare, *last]
    # what is cut is the text
    assert ids("the fox", limit=3, truncate="right") == [*first, *bare[: 3 - len(first + last)], *last]


def test_a_vocabulary_without_letters_and_unknown_tokens_is_read(tmp_path):
    tokenizer = tokenizers.Tokenizer(models.WordPiece({"[CLS]": 0, "[SEP]": 1, "w1": 2}))
    tokenizer.add_special_tokens(["[CLS]", "[SEP]"])
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 0)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    settings = {"eos_token": "[SEP]", "bos_token": "[CLS]", "add_eos_token": True, "add_bos_token": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    found = Tokenizer.load(tmp_path).encode(["w1"], special_tokens=True, limit=9, truncate="error")
    assert found[0].ids.tolist() == [0, 2, 1]
