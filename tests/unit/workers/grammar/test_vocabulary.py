"""Tokenizers as the grammar library reads them: SentencePiece's, and those it cannot follow."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from parquetry.producers.submission import prepare
from parquetry.schemas.errors import GrammarError
from parquetry.schemas.spec.job import JobSpec
from parquetry.workers.grammar.grammar import Grammar
from parquetry.workers.grammar.matcher import GrammarCompiler
from tests.unit.workers.tiny_model import make_model
from tests.unit.workers.workers_records import write_table

PIECES = ["<pad>", "</s>", "<unk>", "\u2581", "\u2581yes", "yes", "no", "\u2581or", "s", "7"]


def unigram() -> Tokenizer:
    """As T5 and Marian have it."""
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0) for piece in PIECES], unk_id=2))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer.add_special_tokens(PIECES[:3])
    return tokenizer


def allowed(compiler: GrammarCompiler, row) -> set[str]:
    bits = np.unpackbits(compiler.masks([row]).view(np.uint8), bitorder="little")
    return {piece for piece, bit in zip(PIECES, bits, strict=False) if bit}


def test_sentencepiece_spaces_are_spaces():
    compiler = GrammarCompiler(unigram(), len(PIECES), [1])
    row = compiler.start(Grammar("regex", "yes or no7?").text)

    seen = []
    for piece in ("yes", "\u2581or", "\u2581", "no"):
        seen.append(allowed(compiler, row))
        row.push(PIECES.index(piece))

    assert seen == [{"yes"}, {"\u2581or"}, {"\u2581"}, {"no"}]
    assert allowed(compiler, row) == {"7", "</s>"}
    assert row.error is None


def test_a_vocabulary_that_cannot_be_followed_is_refused_at_submit(tmp_path):
    make_model(tmp_path / "model")
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.save(str(tmp_path / "model" / "tokenizer.json"))
    write_table(tmp_path / "in.parquet", {"text": ["a"]})
    spec = JobSpec.parse(
        {
            "task": "generate",
            "input": {"path": str(tmp_path / "in.parquet")},
            "output": {"path": str(tmp_path / "out")},
            "model": {"id": str(tmp_path / "model")},
            "prompt": {"template": "{{ text }}"},
            "generation": {"max_new_tokens": 8, "regex": "a+"},
        }
    )

    with pytest.raises(GrammarError, match="the grammar library does not know how its tokenizer writes text"):
        prepare(spec)
    assert not (tmp_path / "out").exists()
