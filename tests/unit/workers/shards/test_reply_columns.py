"""The columns answer, reasoning and tool_calls, of jobs on a model that thinks and calls tools."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from parquetry.workers.preparation.tokenization import Tokenizer
from parquetry.workers.request import Completion
from parquetry.workers.shards.pipeline import run_shard
from parquetry.workers.shards.provenance import from_metadata
from tests.unit.workers.shards.test_requests import Echo
from tests.unit.workers.workers_records import DirectClient, make_record, write_table

#: as Qwen's: it knows both markers, and with thinking forced its prompts begin the thought
TEMPLATE = (
    "{% if tools %}use <tool_call>{{ tools | tojson }}</tool_call>{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
    "{% if begin %}<think>\n{% else %}{# <think></think> #}{% endif %}"
)
CALL = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'


class Scripted(Echo):
    """Answers each prompt with the next text."""

    def __init__(self, folder: Path, texts: list[str], finish: str = "stop") -> None:
        super().__init__()
        encoded = Tokenizer.load(folder).encode(texts, special_tokens=False, limit=10_000, truncate="error")
        self._answers = iter([tokens.ids for tokens in encoded])
        self._finish = finish

    def _answer(self, request):
        return Completion(id=request.id, output_ids=np.asarray(next(self._answers)), finish_reason=self._finish)


@pytest.fixture
def thinker(causal_lm: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "thinker"
    shutil.copytree(causal_lm, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture
def run(thinker: Path, tmp_path: Path):
    """Rows of a job whose model answers with these texts."""

    def answered(texts: list[str], *, finish: str = "stop", prompt=None, **generation):
        generation = {"reasoning": "auto", "max_new_tokens": 20, **generation}
        source = write_table(tmp_path / "in.parquet", {"text": texts})
        prompt = {"template": "{{ text }}", **(prompt or {})}
        record = make_record([source], model={"id": str(thinker)}, prompt=prompt, generation=generation)
        attempt = tmp_path / "attempt.parquet"
        client = DirectClient(Scripted(thinker, texts, finish))
        run_shard(record, record.shard_plan.shard(0), fence=1, attempt=attempt, engine=client)
        return pq.read_table(attempt)

    return answered


def test_each_output_is_split_and_kept_as_it_was(run):
    texts = ["<think>\nhm\n</think>\n\nyes", f"<think>a</think>see {CALL}", "plain <|im_end|> text"]
    table = run(texts)
    assert table["output"].to_pylist() == [*texts[:2], "plain  text"]
    assert table["answer"].to_pylist() == ["yes", "see", "plain  text"]
    assert table["reasoning"].to_pylist() == ["hm", "a", None]
    assert table["tool_calls"].to_pylist() == [None, [{"name": "f", "arguments": '{"a": 1}'}], None]
    keys = from_metadata(table.schema.metadata)
    assert keys["reply_splitter"] == "<think> hermes"


def test_a_thought_that_was_cut_short_is_no_answer(run):
    row = run(["<think>\nI should"], finish="length").to_pylist()[0]
    assert (row["answer"], row["reasoning"], row["finish_reason"]) == ("", "I should", "length")


def test_a_template_that_begins_the_thought(run):
    prompt = {"chat_template_kwargs": {"begin": True}}
    table = run(["I should", "hm</think>yes"], prompt=prompt)
    assert table["answer"].to_pylist() == ["", "yes"]
    assert table["reasoning"].to_pylist() == ["I should", "hm"]


def test_a_stop_string_cuts_what_is_split(run):
    table = run(["<think>hm</think>yes END no"], stop=["END"])
    assert table["output"].to_pylist() == ["<think>hm</think>yes "]
    assert table["answer"].to_pylist() == ["yes "]


def test_several_samples_are_split_one_by_one(run, thinker, tmp_path):
    source = write_table(tmp_path / "two.parquet", {"text": ["x"]})
    generation = {"reasoning": "auto", "n": 2, "temperature": 1.0, "max_new_tokens": 9}
    record = make_record([source], model={"id": str(thinker)}, generation=generation)
    client = DirectClient(Scripted(thinker, ["<think>a</think>b", CALL]))
    run_shard(record, record.shard_plan.shard(0), fence=1, attempt=tmp_path / "part", engine=client)
    (row,) = pq.read_table(tmp_path / "part").to_pylist()
    assert (row["answer"], row["reasoning"]) == (["b", ""], ["a", None])
    assert row["tool_calls"] == [None, [{"name": "f", "arguments": '{"a": 1}'}]]


def test_without_the_key_there_are_no_columns(run):
    assert "answer" not in run(["x"], reasoning="off").column_names


def test_a_property_is_not_called_like_a_part(run):
    schema = {"type": "object", "properties": {"answer": {"type": "string"}}}
    with pytest.raises(Exception, match="the property 'answer' is called like a column"):
        run(["x"], json_schema=schema, json_columns=True)
