"""Arrow schemas of the output, and the provenance keys in their metadata."""

from __future__ import annotations

import base64

import pyarrow as pa

from parquetry.schemas.spec.job import JobSpec
from parquetry.schemas.spec.json_columns import json_fields

ROW = pa.field("row", pa.int64(), nullable=False)
ERROR = pa.field("error", pa.string())
_ENTITY = [
    pa.field("label", pa.string()),
    pa.field("score", pa.float32()),
    pa.field("start", pa.int32()),
    pa.field("end", pa.int32()),
    pa.field("word", pa.string()),
]
#: what task classify writes where the model labels tokens: start and end count characters of the input text
ENTITIES = pa.field("entities", pa.list_(pa.struct(_ENTITY)))
_CALL = pa.struct([pa.field("name", pa.string()), pa.field("arguments", pa.string())])
#: what an output is split into: its text without the other two, null where there are none; arguments are JSON
REPLY = [
    pa.field("answer", pa.string()),
    pa.field("reasoning", pa.string()),
    pa.field("tool_calls", pa.list_(_CALL)),
]
#: prefix of every provenance key in the Parquet schema metadata
PROVENANCE_PREFIX = "parquetry."
#: key of a part's footer, absent where there are none: cells that were not UTF-8 and have U+FFFD now, as JSON by column
REPAIRED_CELLS = "repaired_cells"
#: key of a part's schema metadata, absent where there are none: its retries of rows as a JSON list, each with its rows,
#: settings and tokens
ROW_ROUNDS = "row_rounds"


def task_fields(spec: JobSpec, *, embedding_dim: int | None = None, per_token: bool = False) -> list[pa.Field]:
    """The columns the task adds, between `row` and `error`.

    `embedding_dim` is needed by task embed; `per_token` says that task classify has a model that labels tokens.
    """
    if spec.task == "generate":
        return _generation_fields(spec)
    if spec.task == "embed":
        value = pa.float16() if spec.embed.dtype == "float16" else pa.float32()
        vector = pa.list_(value, embedding_dim or 0)
        # a request may hold several texts
        return [pa.field("embedding", pa.list_(vector) if spec.reads_requests else vector), *_token_counts(spec)]
    if spec.task == "score":
        return [pa.field("score", pa.float32())]
    return [ENTITIES] if per_token else _classification_fields(spec)


def _generation_fields(spec: JobSpec) -> list[pa.Field]:
    def many(kind: pa.DataType) -> pa.DataType:
        return kind if spec.generation.n == 1 else pa.list_(kind)

    fields = [
        pa.field("output", many(pa.string())),
        pa.field("finish_reason", many(pa.string())),
        pa.field("prompt_tokens", pa.int32()),
        pa.field("output_tokens", many(pa.int32())),
    ]
    if spec.splits_replies:
        fields += [pa.field(field.name, many(field.type)) for field in REPLY]
    if spec.generation.logprobs:
        fields.append(pa.field("logprobs", many(pa.list_(pa.float32()))))
    if spec.generation.logprobs and spec.reads_requests:
        fields.append(pa.field("tokens", many(pa.list_(pa.string()))))
    if spec.generation.json_columns:
        fields += [pa.field(field.name, many(field.type)) for field in json_fields(spec.generation.json_schema or {})]
    return fields


def _token_counts(spec: JobSpec) -> list[pa.Field]:
    return [pa.field("prompt_tokens", pa.int32())] if spec.reads_requests else []


def _classification_fields(spec: JobSpec) -> list[pa.Field]:
    one = spec.classify.top_k == 1
    fields = [
        pa.field("label", pa.string() if one else pa.list_(pa.string())),
        pa.field("score", pa.float32() if one else pa.list_(pa.float32())),
    ]
    if spec.classify.all_scores:
        fields.append(pa.field("scores", pa.list_(pa.float32())))
    return fields


def reserved_names(spec: JobSpec, *, per_token: bool = False) -> frozenset[str]:
    """Output column names an input column must not have."""
    return frozenset({ROW.name, ERROR.name} | {f.name for f in task_fields(spec, per_token=per_token)})


def schema_text(schema: pa.Schema) -> str:
    """An Arrow schema with its metadata as text, for records."""
    return base64.b64encode(schema.serialize().to_pybytes()).decode("ascii")


def read_schema_text(text: str) -> pa.Schema:
    """The schema that `schema_text` wrote."""
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))
