"""JSON schemas as Arrow columns."""

from __future__ import annotations

import pyarrow as pa
import pytest

from parquetry.schemas.errors import InvalidValueError
from parquetry.schemas.spec.columns import reserved_names, task_fields
from parquetry.schemas.spec.job import JobSpec
from parquetry.schemas.spec.json_columns import NoObjectError, json_fields
from parquetry.workers.shards.json_objects import property_cells, read_object


@pytest.mark.parametrize(("schema", "kind"), [
    ({"type": "string"}, pa.string()),
    ({"type": "integer"}, pa.int64()),
    ({"type": "number"}, pa.float64()),
    ({"type": "boolean"}, pa.bool_()),
    ({"type": ["integer", "null"]}, pa.int64()),
    ({"type": ["integer", "number"]}, pa.float64()),
    ({"type": ["integer", "string"]}, pa.string()),
    ({"enum": ["a", "b"]}, pa.string()),
    ({"enum": [1, 2, None]}, pa.int64()),
    ({"const": True}, pa.bool_()),
    ({"type": "array", "items": {"type": "integer"}}, pa.list_(pa.int64())),
    ({"type": "array"}, pa.string()),
    ({"type": "object", "properties": {"a": {"type": "integer"}}}, pa.struct([("a", pa.int64())])),
    ({"type": "object", "properties": {"a": {}}}, pa.string()),
    ({"type": "object"}, pa.string()),
    ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, pa.int64()),
    ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, pa.string()),
    ({"$ref": "#/$defs/n"}, pa.float64()),
    ({"$ref": "#/$defs/loop"}, pa.string()),
    ({}, pa.string()),
])  # fmt: skip
def test_types(schema, kind):
    loop = {"type": "object", "properties": {"next": {"$ref": "#/$defs/loop"}}}
    whole = {"type": "object", "properties": {"v": schema}, "$defs": {"n": {"type": "number"}, "loop": loop}}
    assert json_fields(whole) == [pa.field("v", kind)]


@pytest.mark.parametrize("schema", [{"type": "array"}, {"type": "object"}, {}])
def test_a_schema_without_properties_has_no_columns(schema):
    with pytest.raises(NoObjectError):
        json_fields(schema)


def spec(**generation) -> JobSpec:
    data = {"task": "generate", "input": {"path": "i"}, "output": {"path": "o"}, "model": {"id": "m"}}
    return JobSpec.parse({**data, "prompt": {"template": "x"}, "generation": generation})


SCHEMA = {"type": "object", "properties": {"label": {"type": "string"}, "score": {"type": "number"}}}


def test_columns_of_the_output():
    made = spec(json_schema=SCHEMA, json_columns=True)
    assert [field.name for field in task_fields(made)][-2:] == ["label", "score"]
    assert {"label", "score", "output"} < reserved_names(made)
    several = spec(json_schema=SCHEMA, json_columns=True, n=2, temperature=1.0)
    assert task_fields(several)[-1].type == pa.list_(pa.float64())


def test_a_schema_is_needed():
    with pytest.raises(InvalidValueError, match="json_schema, which is not set"):
        spec(json_columns=True)
    with pytest.raises(InvalidValueError, match="the property 'output' is called like a column of every output"):
        spec(json_columns=True, json_schema={"type": "object", "properties": {"output": {"type": "string"}}})
    with pytest.raises(InvalidValueError, match="describes no object with properties"):
        spec(json_columns=True, json_schema={"type": "array"})


def test_cells():
    texts = ['{"v": 1}', '{"v": 99999999999999999999}', '{"v": "x"}', '{"v": nu', "[1]", "{}"]
    objects = [read_object(text) for text in texts]
    assert property_cells(objects, pa.field("v", pa.int64())) == [1, None, None, None, None, None]
    assert property_cells(objects, pa.field("v", pa.string())) == ["1", "99999999999999999999", "x", None, None, None]
    assert property_cells([{"v": "\ud800"}], pa.field("v", pa.string())) == ["\ufffd"]
