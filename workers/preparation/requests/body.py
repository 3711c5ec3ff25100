"""The body of one request: its keys by what becomes of them, and its model."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any, NoReturn

from parquetry.schemas.errors import RowError, suggestion
from parquetry.schemas.spec.batch_format import CHAT, COMPLETIONS, EMBEDDINGS, Url
from parquetry.schemas.spec.job import JobSpec

Body = dict[str, Any]
#: how tokens are chosen, on both urls that generate; the second line is of other servers, and known to clients
SAMPLING = frozenset(
    {"temperature", "top_p", "max_tokens", "seed", "stop", "presence_penalty", "frequency_penalty", "n", "logprobs"}
    | {"top_k", "min_p", "repetition_penalty", "stop_token_ids"}
)
#: what a key does to an answer that is not honoured; any of these values asks for nothing
_WITHOUT_EFFECT: dict[str, Collection[Any]] = {
    "stream": (False,), "stream_options": (), "logit_bias": ({},), "top_logprobs": (0,), "modalities": (["text"],),
    "parallel_tool_calls": (True,), "echo": (False,), "best_of": (1,), "suffix": ("",), "encoding_format": ("float",),
    "audio": (), "prediction": (), "verbosity": (), "functions": ([],), "function_call": ("none",),
    "web_search_options": (),
}  # fmt: skip
#: what tells the server about the caller, and changes no answer
_ABOUT_CALLER = frozenset(
    {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"}
)
_OWN: dict[Url, frozenset[str]] = {
    CHAT: SAMPLING | {"messages", "max_completion_tokens", "response_format", "tools", "tool_choice"}
    | {"reasoning_effort"},
    COMPLETIONS: SAMPLING | {"prompt"},
    EMBEDDINGS: frozenset({"input", "dimensions"}),
}  # fmt: skip


def refuse(key: str, reason: str) -> NoReturn:
    """Raise RowError in the form that tells the key of a body."""
    raise RowError(reason=f"{key}: {reason}")


class Bodies:
    """Reads the bodies of a job's lines."""

    def __init__(self, spec: JobSpec) -> None:
        self._url = spec.url
        self._own = _OWN[self._url]
        own_names = (spec.model.id, spec.model.id.rstrip("/").rpartition("/")[2])
        self._models = tuple(dict.fromkeys(spec.input.models or own_names))

    def read(self, url: str, text: str) -> Body:
        """The body without keys that are null or change nothing. Raises RowError."""
        if url != self._url:
            refuse("url", f"the line asks for {url[:80]}, and this job answers {self._url}")
        body = {key: value for key, value in json.loads(text).items() if value is not None}
        self._check_model(body.pop("model", None))
        return {key: value for key, value in body.items() if self._counts(key, value)}

    def _check_model(self, name: object) -> None:
        if name is None:
            refuse("model", "it is required")
        if name not in self._models:
            named = f"{name!r}"[:80]
            refuse("model", f"{named} is not what this job runs, which is {' or '.join(self._models)}")

    def _counts(self, key: str, value: object) -> bool:
        """Whether a key changes the answer. Raises RowError for one that would, and is not honoured."""
        if key in self._own:
            return True
        if key in _ABOUT_CALLER or (key in _WITHOUT_EFFECT and value in _WITHOUT_EFFECT[key]):
            return False
        if key in _WITHOUT_EFFECT or any(key in keys for keys in _OWN.values()):
            refuse(key, f"it is not honoured here for {self._url}; leave it out")
        refuse(key, f"a request to {self._url} has no such key{suggestion(key, self._own)}")


def take(body: Body, key: str, check: Callable[[Any], bool], form: str) -> Any:
    """The value of a key, None without one. Raises RowError where it is not `form`."""
    value = body.get(key)
    if value is not None and not check(value):
        refuse(key, f"it is {form}")
    return value


def is_text_list(value: object) -> bool:
    """Whether it is a list of texts."""
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def is_id_list(value: object) -> bool:
    """Whether it is a list of token ids with at least one in it."""
    return isinstance(value, list) and bool(value) and all(type(item) is int and 0 <= item < 2**31 for item in value)


def as_mapping(value: object) -> Mapping[str, Any]:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}
