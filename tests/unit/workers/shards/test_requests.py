"""Lines of OpenAI's batches, from the file to the columns of the output, on an engine that echoes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from parquetry.workers.engine import Engine
from parquetry.workers.request import Completion, EncodeRequest, Encoding
from parquetry.workers.shards.pipeline import run_shard
from tests.unit.workers.workers_records import DirectClient, make_record

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
HELLO = [{"role": "user", "content": "hello"}]
#: a line that is whole, to be changed
MODEL = "tiny"


class Echo(Engine):
    """Answers prompts with themselves, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list = []
        self._waiting: list = []

    def add(self, requests):
        self.asked += requests
        self._waiting += requests

    def step(self):
        answered, self._waiting = self._waiting, []
        return [self._answer(request) for request in answered]

    def _answer(self, request):
        if isinstance(request, EncodeRequest):
            return Encoding(id=request.id, values=np.full(3, len(request.token_ids), np.float32))
        logprobs = -np.ones(len(request.prompt_ids), np.float32) if request.params.logprobs else None
        return Completion(id=request.id, output_ids=request.prompt_ids, finish_reason="stop", logprobs=logprobs)

    def cancel(self, ids):
        self._waiting = []

    @property
    def num_unfinished(self):
        return len(self._waiting)

    def describe(self):
        return {"backend": "echo", "attention": "none", "embedding_dim": "3"}


def line(asked: dict, custom_id: object = "a", url: object = CHAT, **other: object) -> str:
    """A whole line, but for the keys of `other`; what is `...` is left out."""
    found = {"custom_id": custom_id, "method": "POST", "url": url, "body": {"model": MODEL, **asked}, **other}
    return json.dumps({key: value for key, value in found.items() if value is not ...})


@pytest.fixture
def answer(tmp_path: Path, causal_lm: Path, embedder: Path):
    """Runs lines as one shard; returns the rows of its part, and what the engine was asked."""

    def run(lines: list[str], *, task: str = "generate", url: str | None = None, models=(MODEL,), **sections):
        source = tmp_path / "batch.jsonl"
        source.write_text("\n".join(lines) + "\n")
        given = {"format": "openai-batch", "url": url, "models": list(models) if models else None}
        model = {"id": str(causal_lm if task == "generate" else embedder)}
        record = make_record([source], task=task, input=given, model=model, **sections)
        engine, attempt = Echo(), tmp_path / "attempt.parquet"
        run_shard(record, record.shard_plan.shard(0), fence=1, attempt=attempt, engine=DirectClient(engine))
        return pq.read_table(attempt).to_pylist(), engine.asked

    return run


def one(answer, body: dict, **options):
    """The row of one chat line, and its request."""
    rows, asked = answer([line({"messages": HELLO, **body})], **options)
    return rows[0], asked[0] if asked else None


def test_a_chat_line_is_its_messages_in_the_chat_template(answer):
    row, request = one(answer, {})
    assert row["output"] == "user\nhello\nassistant\n"
    assert (row["custom_id"], row["url"], row["finish_reason"], row["error"]) == ("a", CHAT, "stop", None)
    assert json.loads(row["body"]) == {"model": MODEL, "messages": HELLO}
    assert request.params.max_new_tokens == 256 - row["prompt_tokens"], "what was left open is what there is room for"


def test_every_key_of_sampling_reaches_the_engine(answer):
    keys = {"temperature": 0.5, "top_p": 0.25, "seed": -3, "stop": ["x", "y"], "presence_penalty": 1, "top_k": 7}
    _, request = one(answer, keys | {"frequency_penalty": -1.5, "max_completion_tokens": 9, "min_p": 0.5})
    params = request.params
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (0.5, 0.25, 7, 0.5)
    assert (params.seed, params.stop, params.max_new_tokens) == (2**63 - 3, ("x", "y"), 9)
    assert (params.presence_penalty, params.frequency_penalty, params.logprobs) == (1, -1.5, False)


def test_lines_that_say_nothing_are_sampled_as_the_job_says(answer):
    generation = {"temperature": 0.75, "max_new_tokens": 5, "seed": 4}
    rows, asked = answer([line({"messages": HELLO}), line({"messages": HELLO, "seed": 9}, "b")], generation=generation)
    assert [(r.params.temperature, r.params.max_new_tokens, r.params.seed) for r in asked] == [
        (0.75, 5, 4),
        (0.75, 5, 9),
    ]
    assert [row["error"] for row in rows] == [None, None]


def test_an_output_ends_at_the_stop_string_of_its_own_line(answer):
    lines = [line({"messages": HELLO, "stop": stop}, str(number)) for number, stop in enumerate(["llo", "user", None])]
    rows, _ = answer(lines, generation={"reasoning": "off"})
    assert [row["output"] for row in rows] == ["user\nhe", "", "user\nhello\nassistant\n"]


def test_a_line_may_have_several_answers_up_to_the_number_of_the_job(answer):
    lines = [line({"messages": HELLO, "n": n, "temperature": 1}, str(n)) for n in (1, 2, 4)]
    rows, asked = answer(lines, generation={"n": 3, "temperature": 1.0})
    assert [row["output"] and len(row["output"]) for row in rows] == [1, 2, None]
    assert [request.sample for request in asked] == [0, 0, 1]
    assert rows[2]["error"] == "n: it is 4, and this job answers 3 times at most; set generation.n"


def test_response_formats_are_grammars(answer):
    pytest.importorskip("llguidance")
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    formats = [
        {"type": "text"},
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    ]
    lines = [line({"messages": HELLO, "response_format": form}, str(at)) for at, form in enumerate(formats)]
    _, asked = answer(lines)
    grammars = [request.params.grammar and json.loads(request.params.grammar) for request in asked]
    assert grammars == [None, {"json_schema": {"type": "object"}}, {"json_schema": schema}]


def test_logprobs_come_with_their_tokens_where_the_job_has_a_column(answer):
    lines = [line({"messages": HELLO, "logprobs": True}), line({"messages": HELLO}, "b")]
    rows, _ = answer(lines, generation={"logprobs": True})
    assert len(rows[0]["logprobs"]) == len(rows[0]["tokens"]) == rows[0]["output_tokens"]
    assert "".join(rows[0]["tokens"]).endswith("<|im_start|>assistant\n")
    assert rows[1]["logprobs"] is None and rows[1]["tokens"] is None
    rows, _ = answer(lines)
    assert rows[0]["error"] == "logprobs: this job has no column for them; set generation.logprobs: true"


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"stream": True}, "stream: it is not honoured here for /v1/chat/completions; leave it out"),
        ({"logit_bias": {"5": 1}}, "logit_bias: it is not honoured here"),
        ({"logprobs": True, "top_logprobs": 3}, "top_logprobs: it is not honoured here"),
        ({"temprature": 1}, "a request to /v1/chat/completions has no such key (did you mean 'temperature'?)"),
        ({"prompt": "x"}, "prompt: it is not honoured here for /v1/chat/completions"),
        ({"model": "gpt-5"}, "model: 'gpt-5' is not what this job runs, which is tiny"),
        ({"model": None}, "model: it is required"),
        ({"temperature": "warm"}, "temperature: input should be a valid number"),
        ({"temperature": -1}, "temperature: input should be greater than or equal to 0"),
        ({"top_p": 2}, "top_p: input should be less than or equal to 1"),
        ({"max_tokens": 0}, "max_tokens: it is a whole number from 1 on"),
        ({"max_tokens": True}, "max_tokens: it is a whole number from 1 on"),
        ({"max_tokens": 4, "max_completion_tokens": 5}, "max_tokens: it differs from max_completion_tokens"),
        ({"max_tokens": 250}, "tokens, but at most 6 fit beside max_tokens 250 in the model's 256"),
        ({"max_tokens": 256}, "max_tokens: it is 256, and no prompt fits"),
        ({"stop": 7}, "stop: it is a text, or a list of texts"),
        ({"seed": "x"}, "seed: input should be a valid integer"),
        ({"n": 2}, "n: n is 2 but temperature is 0"),
        ({"messages": []}, "messages: it is required, and it is a list with at least one message"),
        ({"messages": "hello"}, "messages: it is required, and it is a list"),
        ({"messages": [{"role": "boss", "content": "x"}]}, "messages: message 0 has the role 'boss'; known are"),
        ({"messages": [{"role": "user", "content": None}]}, "message 0 has no text as its content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]},
            "messages: message 0 has a content part of type 'image_url'",
        ),
        ({"tools": [{"type": "function"}]}, "tools: the model's chat template has no place for it"),
        ({"tools": "none"}, "tools: it is a list of objects"),
        ({"tool_choice": "required"}, "tool_choice: it is auto or none"),
        ({"reasoning_effort": "high"}, "reasoning_effort: the model's chat template has no place for it"),
        ({"reasoning_effort": "wild"}, "reasoning_effort: it is one of none, minimal"),
        ({"response_format": {"type": "xml"}}, "response_format: its type is text, json_object, or json_schema"),
    ],
)  # fmt: skip
def test_what_is_not_honoured_is_refused_for_its_own_line(answer, body, error):
    lines = [line({"messages": HELLO, **body}, "bad"), line({"messages": HELLO}, "good")]
    rows, asked = answer(lines)
    assert error in rows[0]["error"]
    assert (rows[0]["custom_id"], rows[0]["output"], rows[0]["finish_reason"]) == ("bad", None, "error")
    assert rows[1]["error"] is None and [request.row for request in asked] == [1]


@pytest.mark.parametrize(
    "body",
    [
        {"stream": False, "logit_bias": {}, "top_logprobs": 0, "logprobs": False, "parallel_tool_calls": True},
        {"user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "flex", "tool_choice": "none"},
        {"temperature": None, "stop": None, "tools": None, "response_format": None, "functions": []},
    ],
)
def test_what_asks_for_nothing_is_left_out(answer, body):
    row, _ = one(answer, body)
    assert row["error"] is None


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('{"custom_id"', "line 1 of batch.jsonl: it is not valid JSON"),
        ("[1]", "line 1 of batch.jsonl: it is JSON, but no object"),
        (line({}, ...), "custom_id: it is required, and it is a text"),
        (line({}, 7), "custom_id: it is required, and it is a text"),
        (line({}, "x" * 513), "custom_id: it has 513 characters, and may have 512"),
        (line({}, method="GET"), "method: it must be POST"),
        (line({}, url=...), "url: it is required, and it is a text"),
        (line({}, body=...), "body: it is required, and it is an object"),
        (line({}, body="text"), "body: it is required, and it is an object"),
        (line({}, bodi={}), "bodi: a request has no such key (did you mean 'body'?)"),
        (line({}, url=COMPLETIONS), "url: the line asks for /v1/completions, and this job answers"),
        (line({"user": "\ud800"}), "body is not valid UTF-8"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_request_is_an_error_row(answer, text, error):
    rows, _ = answer([text, line({"messages": HELLO}, "good")])
    assert error in rows[0]["error"]
    assert [row["error"] for row in rows[1:]] == [None]


def test_the_second_of_two_lines_with_one_custom_id_is_refused(answer):
    rows, asked = answer([line({"messages": HELLO}), line({"messages": HELLO}, "b"), line({"messages": HELLO})])
    assert [row["error"] for row in rows] == [
        None,
        None,
        "line 3 of batch.jsonl: custom_id: an earlier line has the same",
    ]
    assert [row["custom_id"] for row in rows] == ["a", "b", "a"]
    assert [request.row for request in asked] == [0, 1]


def test_the_model_goes_by_its_id_and_the_last_part_of_it(answer, causal_lm):
    names = [str(causal_lm), causal_lm.name, "other"]
    lines = [line({"messages": HELLO, "model": name}, name) for name in names]
    rows, _ = answer(lines, models=None)
    assert [row["error"] is None for row in rows] == [True, True, False]


def test_the_developer_speaks_as_the_system_and_parts_of_text_are_text(answer):
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    ]
    row, _ = one(answer, {"messages": messages})
    assert row["output"] == "system\nbe brief\nuser\nab\nassistant\n"


def test_completions_take_a_text_or_token_ids(answer):
    prompts = ["hello", ["hello"], [72, 105], [[72, 105]], ["a", "b"], [], None, {"a": 1}]
    lines = [line({"prompt": prompt, "max_tokens": 4}, str(at), COMPLETIONS) for at, prompt in enumerate(prompts)]
    rows, asked = answer(lines, url=COMPLETIONS)
    assert [row["error"] is None for row in rows] == [True] * 4 + [False] * 4
    assert rows[0]["output"] == rows[1]["output"] == "hello"
    assert [request.prompt_ids.tolist() for request in asked[2:]] == [[72, 105]] * 2


def test_embeddings_take_texts_and_token_ids(answer):
    inputs = ["good film", ["good", "bad book"], [5, 6, 7], [[5], [6, 7]], [], ["a", 5], None, ""]
    lines = [line({"input": value}, str(at), EMBEDDINGS) for at, value in enumerate(inputs)]
    rows, _ = answer(lines, task="embed")
    assert [row["embedding"] and len(row["embedding"]) for row in rows] == [1, 2, 1, 2, None, None, None, 1]
    assert rows[2]["embedding"] == [[3.0, 3.0, 3.0]] and rows[3]["embedding"] == [[1.0] * 3, [2.0] * 3]
    assert rows[3]["prompt_tokens"] == 3


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"dimensions": 2}, "dimensions: the job gives all"),
        ({"encoding_format": "base64"}, "encoding_format: it is not honoured"),
    ],
)
def test_embeddings_that_the_job_does_not_give_are_refused(answer, body, error):
    rows, _ = answer([line({"input": "x", **body}, url=EMBEDDINGS)], task="embed")
    assert error in rows[0]["error"]
