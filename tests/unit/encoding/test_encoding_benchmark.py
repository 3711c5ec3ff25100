"""The file-to-file side of the encoder benchmark computes the rows that the engines compute."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"


@pytest.fixture
def benchmark_modules(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    for name in ("texts", "encoder_files"):
        sys.modules.pop(name, None)


def test_texts_become_the_token_ids_they_were_made_of(tmp_path, benchmark_modules):
    from encoder_files import as_text, write_tokenizer
    from texts import texts

    rows = texts("mixed", 20)
    write_tokenizer(tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for row, found in zip(rows, tokenizer.encode_batch([as_text(row) for row in rows]), strict=True):
        np.testing.assert_array_equal(found.ids, row)
