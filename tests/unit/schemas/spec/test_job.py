"""The job spec: what is accepted, and the one sentence for everything else."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from parquetry.schemas.errors import ExitCode, InvalidValueError, UnknownKeyError
from parquetry.schemas.spec.job import JobSpec

MINIMAL = {
    "task": "generate",
    "input": {"path": "in"},
    "output": {"path": "out"},
    "model": {"id": "m"},
    "prompt": {"template": "{{ text }}"},
}


def with_value(path: str, value: object) -> dict:
    """MINIMAL with one dotted key set."""
    data = json.loads(json.dumps(MINIMAL))
    *sections, key = path.split(".")
    target = data
    for section in sections:
        target = target.setdefault(section, {})
    target[key] = value
    return data


def test_defaults():
    spec = JobSpec.parse(MINIMAL)
    assert spec.generation.max_new_tokens == 256
    assert spec.generation.temperature == 0.0
    assert spec.shards.rows == "auto"
    assert (spec.priority, spec.on_row_error) == (5, "keep")
    assert spec.prompt.truncate == "error"


def test_a_spec_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        JobSpec.parse(MINIMAL).priority = 1


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("modle", "model"),
        ("generation.max_tokens", "max_new_tokens"),
        ("prompt.temlpate", "template"),
        ("input.colums", "columns"),
        ("classify.topk", "top_k"),
        ("model.quantisation", "quantization"),
        ("generation.minp", "min_p"),
        ("generation.repetion_penalty", "repetition_penalty"),
        ("generation.stop_ids", "stop_token_ids"),
        ("generation.skip_special_token", "skip_special_tokens"),
        ("prompt.chat_template_args", "chat_template_kwargs"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest(key, nearest):
    with pytest.raises(UnknownKeyError) as refusal:
        JobSpec.parse(with_value(key, 1))
    assert str(refusal.value) == f"The job spec has an unknown key {key!r} (did you mean {nearest!r}?)."
    assert refusal.value.exit_code == ExitCode.BAD_INPUT


def test_an_unknown_key_like_none_of_ours():
    with pytest.raises(UnknownKeyError, match="unknown key 'zzz'") as refusal:
        JobSpec.parse(with_value("zzz", 1))
    assert "did you mean" not in str(refusal.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("task", "translate"),
        ("task", None),
        ("input.path", 1),
        ("input.path", None),
        ("input.path", [1]),
        ("input.limit", 0),
        ("input.limit", "10"),
        ("output.keep", "id"),
        ("model.id", ["m"]),
        ("model.quantization", "int3"),
        ("model.dtype", "float8"),
        ("model.attention", "fast"),
        ("generation.max_new_tokens", 0),
        ("generation.max_new_tokens", -5),
        ("generation.max_new_tokens", "many"),
        ("generation.max_new_tokens", 1.5),
        ("generation.max_new_tokens", True),
        ("generation.temperature", -0.1),
        ("generation.temperature", float("nan")),
        ("generation.top_p", 0.0),
        ("generation.top_p", 1.1),
        ("generation.top_k", -1),
        ("generation.seed", -1),
        ("generation.n", 0),
        ("generation.stop", [""]),
        ("generation.stop_token_ids", [1, -1]),
        ("generation.stop_token_ids", ["</s>"]),
        ("generation.stop_token_ids", 2),
        ("generation.min_p", 1.1),
        ("generation.min_p", float("nan")),
        ("generation.repetition_penalty", 0.0),
        ("generation.repetition_penalty", float("inf")),
        ("generation.presence_penalty", 2.1),
        ("generation.frequency_penalty", -2.1),
        ("generation.skip_special_tokens", "no"),
        ("prompt.chat", "yes"),
        ("prompt.tools", []),
        ("prompt.tools", 1),
        ("prompt.tools", ["weather"]),
        ("prompt.tools", [{}]),
        ("prompt.chat_template_kwargs", ["enable_thinking"]),
        ("prompt.chat_template_kwargs", {"messages": []}),
        ("shards.rows", 0),
        ("shards.rows", "many"),
        ("priority", 10),
        ("priority", -1),
        ("on_row_error", "ignore"),
        ("notify", "https://h"),
        ("notify", ["ftp://h"]),
        ("notify", ["https://h/a b"]),
        ("notify", ["https://user:word@h"]),
        ("notify", ["https://h"] * 11),
    ],
)
def test_a_wrong_value_is_named(key, value):
    with pytest.raises(InvalidValueError) as refusal:
        JobSpec.parse(with_value(key, value))
    message = str(refusal.value)
    assert message.startswith(f"The job spec's {key}")
    assert "\n" not in message
    assert len(message) < 400


#: what a section may not be; a text, and of the input a list, may stand for the key that matters most
WRONG_TYPES = {
    "input": [1, None],
    "output": [1, [], None],
    "model": [1, [], None],
    "prompt": [1, [], None],
    "generation": ["text", 1, [], None],
}


@pytest.mark.parametrize(
    ("section", "value"), [(name, value) for name, values in WRONG_TYPES.items() for value in values]
)
def test_a_section_of_the_wrong_type(section, value):
    with pytest.raises(InvalidValueError, match=f"The job spec's {section} is"):
        JobSpec.parse({**MINIMAL, section: value})


@pytest.mark.parametrize(
    ("section", "short", "whole"),
    [
        ("input", "a.parquet", {"path": "a.parquet"}),
        ("input", ["a", "b"], {"path": ["a", "b"]}),
        ("output", "out", {"path": "out"}),
        ("model", "m", {"id": "m"}),
        ("prompt", "Say {{ text }}", {"template": "Say {{ text }}"}),
    ],
)
def test_a_plain_value_stands_for_the_key_that_matters_most(section, short, whole):
    specs = [JobSpec.parse({**MINIMAL, section: value}) for value in (short, whole)]
    assert specs[0] == specs[1] and specs[0].fingerprint == specs[1].fingerprint


@pytest.mark.parametrize("key", ["task", "input", "output", "model"])
def test_a_missing_section(key):
    data = {name: value for name, value in MINIMAL.items() if name != key}
    with pytest.raises(InvalidValueError, match=f"{key} is missing: it is required"):
        JobSpec.parse(data)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"prompt": {}}, "needs prompt.template or prompt.messages"),
        ({"prompt": {"template": "x", "messages": "m"}}, "not both"),
        ({"prompt": {"messages": "m", "chat": False}}, "needs the chat template"),
        ({"generation": {"n": 2}}, "set temperature"),
        ({"generation": {"regex": "a", "json_schema": {}}}, "not both"),
        ({"generation": {"choices": ["a"], "regex": "a"}}, "give regex or choices, not both"),
        ({"generation": {"choices": []}}, "lists no choice"),
        ({"generation": {"choices": ["a", ""]}}, "must not be empty"),
        ({"generation": {"choices": ["a", "b", "a"]}}, "lists 'a' more than once"),
        ({"task": "score"}, "needs classify.text_pair"),
        ({"prompt": {"template": "x", "tools": "t", "chat": False}}, "tools needs the chat template"),
        ({"task": "embed", "generation": {"min_p": 0.1}}, "generation.min_p is of task generate"),
        ({"task": "embed", "generation": {"stop_token_ids": [1]}}, "generation.stop_token_ids is of task generate"),
        ({"task": "classify", "prompt": {"tools": [{"type": "function"}]}}, "prompt.tools is of task generate"),
    ],
)
def test_sections_must_agree(changes, reason):
    with pytest.raises(InvalidValueError, match=reason):
        JobSpec.parse({**MINIMAL, **changes})


def test_a_long_value_is_shortened():
    with pytest.raises(InvalidValueError) as refusal:
        JobSpec.parse(with_value("input.path", [1] * 10_000))
    assert len(str(refusal.value)) < 300


def test_needed_columns():
    chat = JobSpec.parse({**MINIMAL, "prompt": {"messages": "chat"}})
    assert chat.needed_columns == {"chat": "prompt.messages"}
    tools = JobSpec.parse({**MINIMAL, "prompt": {"messages": "chat", "tools": "functions"}})
    assert tools.needed_columns == {"chat": "prompt.messages", "functions": "prompt.tools"}
    score = JobSpec.parse({**MINIMAL, "task": "score", "classify": {"text": "q", "text_pair": "d"}})
    assert score.needed_columns == {"q": "classify.text", "d": "classify.text_pair"}
    assert JobSpec.parse({**MINIMAL, "task": "embed"}).needed_columns == {"text": "embed.text"}
    assert JobSpec.parse(MINIMAL).needed_columns == {}


def test_the_fingerprint_is_of_what_determines_the_output():
    base = JobSpec.parse(MINIMAL)
    explicit = JobSpec.parse(with_value("generation", {"max_new_tokens": 256, "stop": []}))
    assert explicit.fingerprint == base.fingerprint
    assert JobSpec.parse(with_value("priority", 1)).fingerprint == base.fingerprint
    assert JobSpec.parse(with_value("notify", ["https://h"])).fingerprint == base.fingerprint
    assert JobSpec.parse(with_value("generation.seed", 1)).fingerprint != base.fingerprint
    assert JobSpec.parse(with_value("model.quantization", "nf4")).fingerprint != base.fingerprint


@given(st.text(), st.integers(1, 10**6), st.floats(0, 100), st.lists(st.text(min_size=1), max_size=3))
def test_a_spec_survives_json(template, tokens, temperature, stop):
    generation = {"max_new_tokens": tokens, "temperature": temperature, "stop": stop}
    spec = JobSpec.parse({**MINIMAL, "prompt": {"template": template}, "generation": generation})
    again = JobSpec.model_validate_json(spec.model_dump_json())
    assert again == spec
    assert again.fingerprint == spec.fingerprint
    assert JobSpec.parse(spec.model_dump(mode="json")) == spec


@pytest.mark.parametrize("section", ["input", "output", "model"])
def test_a_location_holds_no_password(section):
    key = "id" if section == "model" else "path"
    with pytest.raises(InvalidValueError, match="credentials come from the environment") as refused:
        JobSpec.parse({**MINIMAL, section: {key: "s3://user:planted@bucket/a"}})
    assert "planted" not in str(refused.value)
    JobSpec.parse({**MINIMAL, section: {key: "s3://bucket/a@b"}})
