"""The sampling keys of a request as the generation section of a job, checked by the same rules."""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError

from parquetry.schemas.errors import GrammarError, InvalidValueError, MissingPackageError, RowError, UnknownKeyError
from parquetry.schemas.spec.generation import GenerationSpec
from parquetry.schemas.spec.section import first_problem
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.preparation.request_params import check_stop_ids, sampling_params
from parquetry.workers.preparation.requests.body import SAMPLING, Body, as_mapping, is_text_list, refuse
from parquetry.workers.preparation.tokenization import Tokenizer
from parquetry.workers.request import SamplingParams

#: different settings whose checked form is kept; most batches have one
_MAX_KNOWN = 4096
_SAME = SAMPLING - {"max_tokens", "seed", "stop", "logprobs"}
Settled = tuple[SamplingParams, int]


class Sampling:
    """What lines say of sampling, over the job's own generation section."""

    def __init__(self, generation: GenerationSpec, checkpoint: Checkpoint, tokenizer: Tokenizer) -> None:
        self._generation, self._checkpoint, self._tokenizer = generation, checkpoint, tokenizer
        self._base = generation.model_dump() | {"n": 1, "logprobs": False, "json_columns": False, "reasoning": None}
        self._known: dict[str, Settled | RowError] = {}

    def of(self, body: Body) -> Settled:
        """Parameters and number of answers of a body. Raises RowError."""
        changes = self._changes(body)
        key = json.dumps(changes, sort_keys=True)
        if key not in self._known:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[key] = self._settled(changes)
        found = self._known[key]
        if isinstance(found, RowError):
            raise found
        return found

    def _changes(self, body: Body) -> dict[str, Any]:
        changes = {key: body[key] for key in _SAME if key in body}
        if (longest := longest_output(body)) is not None:
            changes["max_new_tokens"] = longest
        if "seed" in body:
            changes["seed"] = body["seed"] % 2**63 if type(body["seed"]) is int else body["seed"]
        if "stop" in body:
            changes["stop"] = _stop(body["stop"])
        if body.get("logprobs") not in (None, False):
            changes["logprobs"] = self._logprobs(body["logprobs"])
        return changes | _format(body.get("response_format"))

    def _logprobs(self, value: object) -> bool:
        # of completions, 0 asks for the tokens themselves and more for others beside them
        if value is not True and (type(value) is not int or value != 0):
            refuse("logprobs", "those of the chosen tokens are there and no others; set true, or 0 in completions")
        if not self._generation.logprobs:
            refuse("logprobs", "this job has no column for them; set generation.logprobs: true")
        return True

    def _settled(self, changes: dict[str, Any]) -> Settled | RowError:
        try:
            own = GenerationSpec.model_validate(self._base | changes)
            check_stop_ids(own, self._checkpoint)
            if own.n > self._generation.n:
                refuse("n", f"it is {own.n}, and this job answers {self._generation.n} times at most; set generation.n")
            return sampling_params(own, self._tokenizer), own.n
        except ValidationError as error:
            return _as_row_error(first_problem(error, GenerationSpec))
        except InvalidValueError as error:
            return _as_row_error(error)
        except (GrammarError, MissingPackageError) as error:
            return RowError(reason=f"response_format: {error}")
        except RowError as error:
            return error


def longest_output(body: Body) -> int | None:
    """The most tokens that a line asks for, None where it leaves that open. Raises RowError."""
    given = {key: body[key] for key in ("max_completion_tokens", "max_tokens") if key in body}
    for key, value in given.items():
        if type(value) is not int or value < 1:
            refuse(key, "it is a whole number from 1 on")
    if len(set(given.values())) > 1:
        refuse("max_tokens", "it differs from max_completion_tokens; give one of them")
    return next(iter(given.values()), None)


def _stop(value: object) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not is_text_list(texts):
        refuse("stop", "it is a text, or a list of texts")
    return list(texts)  # type: ignore[call-overload]


def _format(value: object) -> dict[str, Any]:
    """What response_format asks for."""
    found = as_mapping(value)
    if value is None or found.get("type") == "text":
        return {}
    if found.get("type") == "json_object":
        return _schema({"type": "object"})
    schema = as_mapping(found.get("json_schema")).get("schema")
    if found.get("type") != "json_schema" or not isinstance(schema, dict):
        refuse("response_format", "its type is text, json_object, or json_schema with json_schema.schema")
    return _schema(schema)


def _schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {"json_schema": schema, "regex": None, "choices": None}


def _as_row_error(problem: InvalidValueError | UnknownKeyError) -> RowError:
    """The same by the name that the line has for the key."""
    key = str(problem.fields["key"]).removeprefix("generation.").partition(".")[0]
    name = {"max_new_tokens": "max_tokens", "json_schema": "response_format"}.get(key, key)
    name = name if name != "top level" else "n"
    return RowError(reason=f"{name}: {problem.fields.get('reason', problem)}")
