"""The file-to-file side of the encoder benchmark computes the rows that the engines compute."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

BENCHMARKS = Path(__file__).resolve().parents[4] / "benchmarks"


@pytest.fixture
def benchmark_modules(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    for name in ("texts", "encoder_files", "encoder_profile", "encoder_report"):
        sys.modules.pop(name, None)


def test_texts_become_the_token_ids_they_were_made_of(tmp_path, benchmark_modules):
    from encoder_files import as_text, write_tokenizer
    from texts import texts

    rows = texts("mixed", 20)
    write_tokenizer(tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for row, found in zip(rows, tokenizer.encode_batch([as_text(row) for row in rows]), strict=True):
        np.testing.assert_array_equal(found.ids, row)


def test_a_report_keeps_what_was_measured(tmp_path, benchmark_modules):
    from encoder_report import Report, Result

    report = Report(["# Here"], tmp_path / "out" / "report")
    report.table("small, short texts")
    slow = Result("small", "short", "slow", "ids", 10, 100, 2.0)
    report.add(slow, slow)
    report.add(Result("small", "short", "fast", "files", 10, 100, 0.5, mfu=0.5, difference=0.25), slow)
    report.ratios("small", "short", [("fast", "slow"), ("fast", "absent")])
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| fast | files | 10 | 0.500 | 200 | 4.00 | 50.0% | 0.2500 |" in text
    assert text.endswith("Ratios (small, short): fast / slow 4.00.\n")
    assert [row["tokens_per_second"] for row in json.loads((tmp_path / "out" / "report.json").read_text())] == [50, 200]


def test_gaps_of_a_profile_are_told_apart(benchmark_modules, capsys):
    from encoder_profile import report

    # two batches; the second span lies inside the first, 10 us are idle after it, then 100
    report([(0.0, 20.0, "a"), (5.0, 15.0, "b"), (30.0, 40.0, "a"), (140.0, 150.0, "a")], num_batches=2)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [(line[0], line[-1]) for line in lines[:2]] == [("20.0", "a"), ("5.0", "b")]
    assert [line[0] for line in lines[2:]] == ["0.0", "5.0", "50.0"]
