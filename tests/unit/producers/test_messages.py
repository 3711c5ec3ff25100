"""Chat messages in every form that a column may have them."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquetry.producers.submission import prepare
from parquetry.schemas.errors import InvalidValueError
from parquetry.schemas.spec.job import JobSpec
from parquetry.workers.preparation.cells import cells
from parquetry.workers.preparation.conversation import read_messages
from parquetry.workers.shards.reader import read_shard

TURN = {"role": "user", "content": "x"}
STRUCT = pa.struct([("role", pa.string()), ("content", pa.string())])


def contents(folder: Path, model: Path, column: str) -> list:
    """The content of the first message of each row, as a worker reads it."""
    spec = {
        "task": "generate",
        "input": {"path": f"{folder}/in"},
        "output": {"path": f"{folder}/out"},
        "model": {"id": str(model)},
        "prompt": {"messages": column},
        "generation": {"max_new_tokens": 4},
    }
    record = prepare(JobSpec.parse(spec))
    (rows,) = read_shard(record, record.shard_plan.shard(0))
    assert rows.faults == {}
    return [read_messages(column, value)[0]["content"] for value in cells(column, rows.batch[column])]


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path


@pytest.mark.parametrize("column", [
    pa.array([json.dumps([TURN])], pa.json_()),
    pa.array([json.dumps([TURN])], pa.string_view()),
    pa.array([json.dumps([TURN])]).dictionary_encode(),
    pa.array([json.dumps({"model": "m", "messages": [TURN]})]),
    pa.array([[list(TURN.items())]], pa.list_(pa.map_(pa.string(), pa.string()))),
    pa.array([{"model": "m", "messages": [TURN]}]),
    pa.array([[TURN]], pa.large_list(STRUCT)),
    pa.array([[TURN]], pa.list_(STRUCT, 1)),
])  # fmt: skip
def test_forms_of_a_column(folder, causal_lm, column):
    pq.write_table(pa.table({"chat": column}), folder / "in" / "a.parquet")
    assert contents(folder, causal_lm, "chat") == ["x"]


def test_content_of_parts(folder, causal_lm):
    parts = [{"type": "text", "text": "x"}]
    pq.write_table(pa.table({"chat": [[{"role": "user", "content": parts}]]}), folder / "in" / "a.parquet")
    assert contents(folder, causal_lm, "chat") == [parts]


def test_bodies_of_an_openai_batch(folder, causal_lm):
    given = ["x", [{"type": "text", "text": "y"}], "z"]
    bodies = [{"model": "m", "messages": [{"role": "user", "content": content}]} for content in given]
    lines = [json.dumps({"custom_id": str(number), "body": body}) for number, body in enumerate(bodies)]
    (folder / "in" / "a.jsonl").write_text("\n".join(lines))
    assert contents(folder, causal_lm, "body") == given


@pytest.mark.parametrize("column", [pa.array([1]), pa.array([["x"]]), pa.array([{"role": "user"}])])
def test_other_columns_are_refused(folder, causal_lm, column):
    pq.write_table(pa.table({"chat": column}), folder / "in" / "a.parquet")
    with pytest.raises(InvalidValueError, match="messages are a list of structs with role and content"):
        contents(folder, causal_lm, "chat")
