"""OpenAI's batch format: each line of JSON a request, read as the columns custom_id, url and body."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

from parquetry.schemas.errors import suggestion
from parquetry.schemas.shard import Mark
from parquetry.schemas.spec.batch_format import BODY, CUSTOM_ID, KEYS, URL
from parquetry.workers.reading.json_lines import JsonLines
from parquetry.workers.reading.text_rows import TextRow

#: of a custom_id, as OpenAI has it
MAX_ID_CHARACTERS = 512


class BatchLines(JsonLines):
    """A file of requests. A line that is none is a row with a fault, and its custom_id where it has one."""

    def rows(self, stream: io.BufferedReader, mark: Mark) -> Iterator[TextRow]:
        return (row if row.values is None else _request(row) for row in super().rows(stream, mark))


def _request(row: TextRow) -> TextRow:
    line: dict[str, Any] = row.values
    found = {name: line[name] for name in (CUSTOM_ID, URL) if isinstance(line.get(name), str)}
    if isinstance(line.get(BODY), dict):
        found[BODY] = json.dumps(line[BODY], ensure_ascii=False, separators=(",", ":"))
    return row._replace(values=found, fault=_fault(line))


def _fault(line: dict[str, Any]) -> str | None:
    """Why a line is no request, None where it is one."""
    unknown = next((name for name in line if name not in KEYS), None)
    if unknown is not None:
        return f"{unknown}: a request has no such key{suggestion(unknown, KEYS)}"
    custom_id = line.get(CUSTOM_ID)
    if not isinstance(custom_id, str) or not custom_id:
        return "custom_id: it is required, and it is a text"
    if len(custom_id) > MAX_ID_CHARACTERS:
        return f"custom_id: it has {len(custom_id):,} characters, and may have {MAX_ID_CHARACTERS}"
    if line.get("method") != "POST":
        return "method: it must be POST"
    if not isinstance(line.get(URL), str):
        return "url: it is required, and it is a text"
    return None if isinstance(line.get(BODY), dict) else "body: it is required, and it is an object"
