"""A model that fails on rows of full length ends its job at once, in a sentence, and leaves the output free."""

from __future__ import annotations

import json

from tests.acceptance.tables import write_file
from tests.models import write_classifier
from tests.short_onnx import write_short_onnx

SHARDS = 5


def test_a_model_that_fails_on_long_rows_is_refused_before_any_shard(shell):
    folder = write_classifier(shell.folder / "model")
    vocab_size = json.loads((folder / "config.json").read_text())["vocab_size"]
    write_short_onnx(folder / "model.onnx", vocab_size=vocab_size, num_positions=16)
    write_file(shell.folder / "in.parquet", 10 * SHARDS)
    shell.spec(
        "job",
        task="classify",
        input={"path": "in.parquet"},
        output={"path": "out"},
        model={"id": "model", "backend": "onnxruntime"},
        shards={"rows": 10},
    )
    ended = shell.run("run", "job.yaml")
    assert ended.returncode == 1
    assert "a row of 64 tokens fails in it" in ended.stdout + ended.stderr
    assert (ended.stdout + ended.stderr).count("fails in it") == 1
    assert list((shell.folder / "out").glob("part-*")) == []

    # the same folder takes the job once its spec names an engine that works
    again = shell.run("run", "job.yaml", "--set", "model.backend=transformers")
    assert again.returncode == 0, again.stderr
    assert len(list((shell.folder / "out").glob("part-*"))) == SHARDS
