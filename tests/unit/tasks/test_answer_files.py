"""OpenAI's output and error files of a job, made of its parts on a disk."""

from __future__ import annotations

import json
from pathlib import Path

from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion

from parquetry.schemas.location import Location
from parquetry.schemas.manifest import JobRecord
from parquetry.schemas.spec.batch_format import ERRORS_FILE, OUTPUT_FILE
from parquetry.schemas.storage.opening import open_storage
from parquetry.schemas.storage.storage import Storage
from parquetry.tasks.answer_files import publish_answers, withdraw_answers
from parquetry.workers.responses.choices import chat_choice
from parquetry.workers.shards.pipeline import run_shard
from tests.unit.workers.shards.test_requests import COMPLETIONS, EMBEDDINGS, HELLO, MODEL, Echo, line
from tests.unit.workers.workers_records import DirectClient, make_record


class Job:
    """A job whose parts are published one after the other."""

    def __init__(self, folder: Path, model: Path, lines: list[str], *, rows_per_shard: int = 2, **sections) -> None:
        source = folder / "batch.jsonl"
        source.write_text("\n".join(lines) + "\n")
        given = {"format": "openai-batch", "models": [MODEL], **sections.pop("input", {})}
        output = {"path": str(folder / "out"), "format": "openai-batch"}
        options = {"input": given, "output": output, "model": {"id": str(model)}, **sections}
        self.record: JobRecord = make_record([source], rows_per_shard=rows_per_shard, **options)
        self.storage: Storage = open_storage(Location.parse(str(folder / "out")))

    def run(self) -> None:
        for index in range(self.record.shard_plan.num_shards):
            shard = self.record.shard_plan.shard(index)
            with self.storage.attempt(shard.part_name) as attempt:
                run_shard(self.record, shard, fence=1, attempt=attempt, engine=DirectClient(Echo()))
                assert self.storage.publish(attempt, shard.part_name)
        publish_answers(self.storage, self.record)

    def lines(self, name: str = OUTPUT_FILE) -> list[dict]:
        return [json.loads(text) for text in self.storage.read(name).splitlines()]


def bodies(job: Job) -> list[dict]:
    return [answer["response"]["body"] for answer in job.lines()]


def test_each_line_is_in_one_of_the_two_files_in_order(tmp_path, causal_lm):
    asked = [line({"messages": HELLO, **({"stream": True} if at % 3 == 1 else {})}, f"id-{at}") for at in range(5)]
    job = Job(tmp_path, causal_lm, [*asked, "no json"])
    job.run()
    assert [answer["custom_id"] for answer in job.lines()] == ["id-0", "id-2", "id-3"]
    assert [answer["custom_id"] for answer in job.lines(ERRORS_FILE)] == ["id-1", "id-4", None]
    assert all(answer["error"] is None and answer["response"]["status_code"] == 200 for answer in job.lines())


def test_an_error_has_openais_shape(tmp_path, causal_lm):
    lines = [line({"messages": HELLO, **body}, name) for name, body in (("a", {"stream": True}), ("b", {"model": "x"}))]
    job = Job(tmp_path, causal_lm, [*lines, line({"messages": HELLO}, "a")])
    job.run()
    first, second, third = (answer["response"] for answer in job.lines(ERRORS_FILE))
    reason = "stream: it is not honoured here for /v1/chat/completions; leave it out"
    error = {"message": reason, "type": "invalid_request_error", "param": "stream", "code": None}
    assert (first["status_code"], first["body"]) == (400, {"error": error})
    assert (second["body"]["error"]["param"], second["body"]["error"]["code"]) == ("model", "model_not_found")
    assert third["body"]["error"]["param"] == "custom_id"
    assert job.lines() == [], "without an answer the file is there and empty"


def test_chat_completions_are_what_the_client_reads(tmp_path, causal_lm):
    generation = {"logprobs": True, "n": 2, "temperature": 1.0}
    asked = [line({"messages": HELLO, "n": 2, "logprobs": True}, "two"), line({"messages": HELLO}, "one")]
    job = Job(tmp_path, causal_lm, asked, generation=generation)
    job.run()
    two, one = (ChatCompletion.model_validate(body, strict=True) for body in bodies(job))
    assert [choice.message.content for choice in two.choices] == ["user\nhello\nassistant\n"] * 2
    assert (two.model, two.object, one.choices[0].finish_reason) == (MODEL, "chat.completion", "stop")
    assert two.usage.completion_tokens == 2 * one.usage.completion_tokens == 2 * two.usage.prompt_tokens
    assert len(two.choices[0].logprobs.content) == one.usage.completion_tokens
    assert one.choices[0].logprobs is None


def test_completions_and_embeddings_are_what_the_client_reads(tmp_path, causal_lm, embedder):
    asked = [line({"prompt": "hello"}, "a", COMPLETIONS)]
    job = Job(tmp_path, causal_lm, asked, input={"url": COMPLETIONS})
    job.run()
    assert Completion.model_validate(bodies(job)[0], strict=True).choices[0].text == "hello"
    (tmp_path / "e").mkdir()
    job = Job(tmp_path / "e", embedder, [line({"input": ["good", "bad"]}, "a", EMBEDDINGS)], task="embed")
    job.run()
    found = CreateEmbeddingResponse.model_validate(bodies(job)[0], strict=True)
    assert [(data.index, len(data.embedding)) for data in found.data] == [(0, 3), (1, 3)]
    assert found.usage.prompt_tokens == found.usage.total_tokens > 0


def test_the_same_parts_give_the_same_bytes_and_replace_others(tmp_path, causal_lm):
    job = Job(tmp_path, causal_lm, [line({"messages": HELLO}, str(at)) for at in range(3)])
    job.run()
    first = {name: job.storage.read(name) for name in (OUTPUT_FILE, ERRORS_FILE)}
    publish_answers(job.storage, job.record)
    assert {name: job.storage.read(name) for name in first} == first
    # of an end that was taken back
    job.storage.put(OUTPUT_FILE, first[OUTPUT_FILE][:50])
    publish_answers(job.storage, job.record)
    assert {name: job.storage.read(name) for name in first} == first
    withdraw_answers(job.storage, job.record)
    assert [job.storage.head(name) for name in first] == [None, None]


def test_other_jobs_have_no_such_files(tmp_path, causal_lm):
    job = Job(tmp_path, causal_lm, [line({"messages": HELLO})])
    parquet = job.record.spec.output.model_copy(update={"format": "parquet"})
    job.record = job.record.model_copy(update={"spec": job.record.spec.model_copy(update={"output": parquet})})
    job.run()
    assert [entry.path for entry in job.storage.list()] == ["part-00000000.parquet"]


def test_calls_of_tools_are_in_the_message():
    call = {"name": "f", "arguments": "{}"}
    sample = {"answer": "", "output": "x", "reasoning": "hm", "tool_calls": [call], "finish_reason": "stop"}
    choice = chat_choice(0, sample, ["call_1"])
    assert choice["finish_reason"] == "tool_calls" and choice["message"]["content"] is None
    assert choice["message"]["tool_calls"] == [{"id": "call_1", "type": "function", "function": call}]
    assert choice["message"]["reasoning_content"] == "hm"
