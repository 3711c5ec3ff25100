"""The row of a part as the answer to its request."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from parquetry.schemas.manifest import JobRecord
from parquetry.schemas.spec.batch_format import CHAT, COMPLETIONS, CUSTOM_ID
from parquetry.workers.responses.choices import Sample, chat_choice, text_choice
from parquetry.workers.responses.ids import row_id

Row = Mapping[str, Any]
#: the key of a request that an error names, behind the place of its line
_KEY = re.compile(r"(?:line \d+ of .*?: )?(\w+): ")
#: columns of a part that an answer is made of; those that are not there are not needed
COLUMNS = (
    *(CUSTOM_ID, "row", "error", "output", "answer", "reasoning", "tool_calls", "finish_reason", "prompt_tokens"),
    *("output_tokens", "logprobs", "tokens", "embedding"),
)
#: of these every sample of a row has its own
_OF_SAMPLES = ("output", "answer", "reasoning", "tool_calls", "finish_reason", "output_tokens", "logprobs", "tokens")


class AnswerWriter:
    """Answers of one job's rows, the same whoever writes them and whenever."""

    def __init__(self, record: JobRecord) -> None:
        self._record, self._url = record, record.spec.url
        model = record.spec.model.id.rstrip("/").rpartition("/")[2]
        self._model = record.spec.input.models[0] if record.spec.input.models else model
        self._created = int(datetime.fromisoformat(record.created).timestamp())

    def answer(self, row: Row) -> dict[str, Any]:
        """What stands for a row in the output file, or in the error file where it has an error."""
        status, body = (200, self._body(row)) if row["error"] is None else _error(row)
        name = row_id(self._record, row["row"])
        return {
            "id": f"batch_req_{name}",
            "custom_id": row[CUSTOM_ID],
            "response": {"status_code": status, "request_id": f"req_{name}", "body": body},
            "error": None,
        }

    def unanswered(self, row: int, custom_id: str | None, error: dict[str, str]) -> dict[str, Any]:
        """What stands in the error file for a row that was never computed."""
        return {
            "id": f"batch_req_{row_id(self._record, row)}",
            "custom_id": custom_id,
            "response": None,
            "error": error,
        }

    def _body(self, row: Row) -> dict[str, Any]:
        if self._url == CHAT:
            return self._completion(row, "chatcmpl", "chat.completion")
        if self._url == COMPLETIONS:
            return self._completion(row, "cmpl", "text_completion")
        vectors = enumerate(row["embedding"])
        data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in vectors]
        tokens = row["prompt_tokens"]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "data": data, "model": self._model, "usage": usage}

    def _completion(self, row: Row, prefix: str, kind: str) -> dict[str, Any]:
        samples = self._samples(row)
        prompt, output = row["prompt_tokens"], sum(sample["output_tokens"] for sample in samples)
        return {
            "id": f"{prefix}-{row_id(self._record, row['row'])}",
            "object": kind,
            "created": self._created,
            "model": self._model,
            "choices": [self._choice(row["row"], index, sample) for index, sample in enumerate(samples)],
            "usage": {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output},
        }

    def _choice(self, row: int, index: int, sample: Sample) -> dict[str, Any]:
        if self._url == COMPLETIONS:
            return text_choice(index, sample)
        calls = range(len(sample.get("tool_calls") or ()))
        return chat_choice(index, sample, [f"call_{row_id(self._record, row, index, call)}" for call in calls])

    def _samples(self, row: Row) -> list[dict[str, Any]]:
        """The cells of each sample; a job of one sample a row has no lists of them."""
        cells = {name: row[name] for name in _OF_SAMPLES if name in row}
        if self._record.spec.generation.n == 1:
            return [cells]
        return [{name: values[at] for name, values in cells.items()} for at in range(len(row["output"]))]


def _error(row: Row) -> tuple[int, dict[str, Any]]:
    """Status and body of a row with an error: the request's fault, unless it had reached the engine."""
    found = _KEY.match(row["error"])
    param = found[1] if found else None
    is_ours = row["prompt_tokens"] is not None
    error = {
        "message": row["error"],
        "type": "server_error" if is_ours else "invalid_request_error",
        "param": param,
        "code": "model_not_found" if param == "model" else None,
    }
    return (500 if is_ours else 400), {"error": error}
