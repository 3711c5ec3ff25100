"""The first job file of somebody who has a table and a model: filled in as far as both tell, the rest in comments."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import yaml

from parquetry.producers.inputs.inputs import find_inputs
from parquetry.schemas.spec.job import InputSpec, Task
from parquetry.workers.reading.text_rows import is_text

DEFAULT_INPUT = "data/*.parquet"
DEFAULT_MODEL = "path/to/model"
_MOST_COLUMNS = 30


@dataclass(frozen=True, kw_only=True)
class FirstJob:
    """What is known of a job before it is written."""

    task: Task
    input: str | None = None
    model: str | None = None
    output: str = "out/"

    def text(self) -> str:
        """The file. Raises a BadInputError for an input that is named and cannot be read."""
        schema = None if self.input is None else find_inputs(InputSpec(path=self.input)).schema
        texts = [field.name for field in schema if is_text(field.type)] if schema is not None else []
        return "\n".join([*self._head(schema), *_OF_TASK[self.task](texts), *_FOOT, ""])

    def _head(self, schema: pa.Schema | None) -> list[str]:
        lines = [
            f"task: {self.task}",
            f"input: {_value(self.input or DEFAULT_INPUT)}    # file, folder, glob or list; local, s3://, gs://, az://",
        ]
        if schema is not None:
            names = [_value(name) for name in schema.names[:_MOST_COLUMNS]]
            lines.append(f"# its columns: {', '.join(names)}{', ...' if len(schema.names) > len(names) else ''}")
        return [
            *lines,
            f"output: {_value(self.output)}    # its own folder; `{{path: out/, keep: [id]}}` carries some columns",
            f"model: {_value(self.model or DEFAULT_MODEL)}    # a folder or hub id; `{{id: ..., quantization: nf4}}`",
        ]


def _value(text: str) -> str:
    """A text as YAML takes it, whatever is in it."""
    is_plain = re.fullmatch(r"[A-Za-z_/.][\w/.-]*", text) is not None and yaml.safe_load(text) == text
    return text if is_plain else json.dumps(text, ensure_ascii=False)


def _chosen(texts: Sequence[str], place: int = 0) -> str:
    """A column of text; the last one where there are fewer."""
    return texts[min(place, len(texts) - 1)] if texts else "text"


def _generate(texts: Sequence[str]) -> list[str]:
    column = _chosen(texts)
    shown = f"{{{{ {column} }}}}" if column.isidentifier() else f"{{{{ row[{json.dumps(column)}] }}}}"
    return [
        "prompt: |    # Jinja over the columns; goes through the model's chat template",
        "  Summarise in one sentence:",
        f"  {shown}",
        "generation:",
        "  max_new_tokens: 256",
        "  # temperature: 0.7    # 0, the default, is greedy",
        "  # json_schema: {type: object, properties: {topic: {type: string}}, required: [topic]}",
        "  # json_columns: true    # a column for each property",
    ]


def _classify(texts: Sequence[str]) -> list[str]:
    lines = ["classify:", f"  text: {_value(_chosen(texts))}"]
    return [*lines, "  # top_k: 3    # the best labels, in lists", "  # all_scores: true"]


def _embed(texts: Sequence[str]) -> list[str]:
    lines = ["embed:", f"  text: {_value(_chosen(texts))}"]
    return [*lines, "  # dimensions: 256    # the first numbers of each vector", "  # dtype: float32"]


def _score(texts: Sequence[str]) -> list[str]:
    first, second = _chosen(texts), _chosen(texts, 1) if texts else "text_pair"
    return ["classify:", f"  text: {_value(first)}", f"  text_pair: {_value(second)}"]


_OF_TASK = {"generate": _generate, "classify": _classify, "embed": _embed, "score": _score}
_FOOT = [
    "# try it: parquetry plan job.yaml --rows 3",
    "# every key: docs/jobs.md; an editor completes them with `parquetry schema > job.schema.json`",
]
