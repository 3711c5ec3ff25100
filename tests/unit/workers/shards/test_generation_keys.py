"""Keys of the generation and prompt sections, from a job's spec to the columns of its output."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from parquetry.workers.engine import Engine
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.hosting.engine_choice import load_engine
from parquetry.workers.preparation.tokenization import Tokenizer
from parquetry.workers.request import Completion
from parquetry.workers.shards.pipeline import run_shard
from tests.unit.workers.preparation.test_tools import QWEN, TOOLS
from tests.unit.workers.workers_records import DirectClient, make_record, write_table

TEXTS = ["hello hello", "the quick brown fox", "a table of rows", "😀 é"]
BACKENDS = ["packed", "transformers"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny chat model whose template reads tools and enable_thinking."""
    from tests.models import write_causal_lm

    folder = write_causal_lm(tmp_path_factory.mktemp("model") / "chat", window=1024)
    (folder / "chat_template.jinja").write_text(QWEN)
    return folder


@pytest.fixture
def job(model: Path, tmp_path: Path):
    """Runs one shard of a job with the given sections; returns the rows of its output."""

    def run(backend: str = "packed", *, engine: Engine | None = None, columns: dict | None = None, **sections) -> list:
        source = write_table(tmp_path / "in.parquet", {"text": TEXTS, **(columns or {})})
        sections["generation"] = {"max_new_tokens": 24, **sections.get("generation", {})}
        sections["prompt"] = {"template": "{{ text }}", **sections.get("prompt", {})}
        record = make_record([source], model={"id": str(model), "backend": backend}, **sections)
        engine = engine or load_engine(EngineSpec.of(record))
        attempt = tmp_path / "attempt.parquet"
        run_shard(record, record.shard_plan.shard(0), fence=1, attempt=attempt, engine=DirectClient(engine))
        engine.close()
        return pq.read_table(attempt).to_pylist()

    return run


def outputs(rows: list) -> list[str]:
    return [row["output"] for row in rows]


@pytest.mark.parametrize(
    "generation",
    [
        {"repetition_penalty": 1.8},
        {"presence_penalty": 2.0},
        {"frequency_penalty": 2.0},
        {"temperature": 1.5, "min_p": 1.0},
    ],
)
def test_back_ends_agree_and_the_key_makes_a_difference(job, generation):
    packed, padded = (job(backend, generation=generation) for backend in BACKENDS)
    assert packed == padded
    free = job(generation={"temperature": generation["temperature"]} if "temperature" in generation else {})
    assert outputs(packed) != outputs(free)


@pytest.mark.parametrize("backend", BACKENDS)
def test_min_p_of_one_is_greedy(job, backend):
    assert outputs(job(backend, generation={"temperature": 1.5, "min_p": 1.0})) == outputs(job(backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_stop_token_ends_the_row_and_is_no_part_of_it(job, model, backend):
    free = job(backend)
    tokenizer = Tokenizer.load(model)
    token = tokenizer.encode([free[0]["output"][4:]], special_tokens=False, limit=99, truncate="error")[0].ids[1]

    rows = job(backend, generation={"stop_token_ids": [int(token)]})

    assert any(row["finish_reason"] == "stop" for row in rows)
    for row, whole in zip(rows, free, strict=True):
        assert whole["output"].startswith(row["output"])
        assert (row["output_tokens"] < whole["output_tokens"]) == (row != whole)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_stop_string_that_is_a_special_token(job, backend):
    # so hot that every token of the vocabulary comes up now and then
    hot = {"temperature": 100.0, "max_new_tokens": 150, "skip_special_tokens": False}
    many = {"text": TEXTS * 8}
    free = outputs(job(backend, generation=hot, columns=many))
    assert any("<|im_start|>" in text for text in free)

    shown = job(backend, generation={**hot, "stop": ["<|im_start|>"]}, columns=many)
    hidden = job(backend, generation={**hot, "stop": ["<|im_start|>"], "skip_special_tokens": True}, columns=many)

    assert outputs(shown) == [text.partition("<|im_start|>")[0] for text in free]
    assert all(row["finish_reason"] == "stop" for row, text in zip(shown, free, strict=True) if "<|im_start|>" in text)
    for key in ("finish_reason", "output_tokens"):
        assert [row[key] for row in hidden] == [row[key] for row in shown]
    assert not any("<s>" in text for text in outputs(hidden))


class Channels(Engine):
    """Answers every prompt with a text that holds channel markers, as gpt-oss writes them."""

    def __init__(self, ids: np.ndarray) -> None:
        self.ids, self.waiting = ids, []

    def add(self, requests) -> None:
        self.waiting += requests

    def step(self) -> list[Completion]:
        done, self.waiting = self.waiting, []
        return [Completion(id=request.id, output_ids=self.ids, finish_reason="stop") for request in done]

    def cancel(self, ids) -> None:
        self.waiting = []

    @property
    def num_unfinished(self) -> int:
        return len(self.waiting)

    def describe(self) -> dict[str, str]:
        return {"backend": "channels"}


@pytest.mark.parametrize(("skip", "expected"), [(True, "analysis hm"), (False, "<|im_start|>analysis<s> hm")])
def test_channel_markers_survive_on_request(job, model, skip, expected):
    text = "<|im_start|>analysis<s> hm"
    (tokens,) = Tokenizer.load(model).encode([text], special_tokens=False, limit=99, truncate="error")

    rows = job(engine=Channels(tokens.ids), generation={"skip_special_tokens": skip})

    assert outputs(rows) == [expected] * len(TEXTS)


def test_tools_of_the_job_and_of_a_column(job):
    plain = job()
    cells = [json.dumps(TOOLS), None, json.dumps(TOOLS * 2), "{"]

    everywhere = job(prompt={"tools": TOOLS, "chat_template_kwargs": {"enable_thinking": False}})
    by_row = job(prompt={"tools": "tools"}, columns={"tools": cells})

    thinking = [row["prompt_tokens"] - bare["prompt_tokens"] for row, bare in zip(everywhere, plain, strict=True)]
    assert len(set(thinking)) == 1 and thinking[0] > len("<think></think>")
    first, second, third, fourth = by_row
    assert second["prompt_tokens"] == plain[1]["prompt_tokens"]
    tools = first["prompt_tokens"] - plain[0]["prompt_tokens"]
    assert (tools > 20 and third["prompt_tokens"] - plain[2]["prompt_tokens"] > 1.5 * tools) or third["error"]
    assert fourth["error"].startswith("tools is not valid JSON")
