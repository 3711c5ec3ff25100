"""A job with a schema: a thousand rows, a thousand documents."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import pyarrow.parquet as pq
import pytest

from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.grammar.grammar import Grammar
from parquetry.workers.hosting.engine_choice import load_engine
from parquetry.workers.process.messages import read_requests, request_frames
from parquetry.workers.request import GenerationRequest, SamplingParams
from parquetry.workers.shards.pipeline import run_shard
from tests.unit.workers.workers_records import DirectClient, make_record, write_table

SCHEMA = {
    "type": "object",
    "properties": {"label": {"enum": ["good", "bad", "so-so"]}, "sure": {"type": "boolean"}},
    "required": ["label", "sure"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("generation", "num_rows"),
    [
        ({"json_schema": SCHEMA}, 1000),
        ({"regex": "[A-F]{2}-[0-9]{3}"}, 100),
        ({"choices": ["good", "bad", "good enough", "so-so", "neither", "both"]}, 100),
    ],
)
def test_every_row_of_a_job_follows_its_grammar(
    causal_lm: Path, tmp_path: Path, generation: dict, num_rows: int
) -> None:
    texts = [f"row {i}" for i in range(num_rows)]
    source = write_table(tmp_path / "in.parquet", {"id": range(num_rows), "text": texts})
    record = make_record(
        [source],
        model={"id": str(causal_lm), "backend": "packed"},
        prompt={"template": "{{ text }}", "chat": False},
        generation={"max_new_tokens": 48, "temperature": 1.0, **generation},
    )
    engine = DirectClient(load_engine(EngineSpec.of(record)))
    attempt = tmp_path / "attempt.parquet"
    run_shard(record, record.shard_plan.shard(0), fence=1, attempt=attempt, engine=engine)
    table = pq.read_table(attempt)
    assert table["finish_reason"].to_pylist() == ["stop"] * num_rows
    texts = table["output"].to_pylist()
    schemas = {
        "json_schema": lambda schema: schema,
        "regex": lambda regex: {"type": "string", "pattern": f"^{regex}$"},
        "choices": lambda choices: {"enum": choices},
    }
    ((kind, source),) = generation.items()
    schema = schemas[kind](source)
    for text in texts:
        jsonschema.validate(json.loads(text) if "json_schema" in generation else text, schema)
    assert len(set(texts)) > 5


def test_a_grammar_travels_once_a_frame() -> None:
    params = SamplingParams(grammar=Grammar("json_schema", SCHEMA).text)
    sent = [GenerationRequest(id=i, prompt_ids=np.arange(3, dtype=np.int32), params=params) for i in range(20)]
    (frame,) = request_frames(sent)
    assert len(frame.header["params"]) == 1
    assert {request.params for request in read_requests(frame)} == {params}
