"""Files of requests as a job's input: what plan and submit say of them before anything runs."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from parquetry.producers.inputs.inputs import find_inputs
from parquetry.producers.inputs.requests import require_asked, url_notes
from parquetry.schemas.errors import InvalidValueError, ParquetryError, UnreadableFileError
from parquetry.schemas.spec.job import InputSpec, JobSpec

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def line(custom_id: str, url: str = CHAT) -> str:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body}) + "\n"


def job(path: object, **changes) -> JobSpec:
    sections = {"task": "generate", "input": {}, "output": {"path": "out"}, "model": {"id": "m"}, **changes}
    sections["input"] = {"path": str(path), "format": "openai-batch", **sections["input"]}
    return JobSpec.parse(sections)


def found(folder: Path, **files: list[str]):
    for name, lines in files.items():
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return find_inputs(InputSpec(path=str(folder), format="openai-batch"))


def test_its_columns_are_text_whatever_bodies_hold(tmp_path):
    table = found(tmp_path, a=[line("1"), line("2")])
    assert [(field.name, str(field.type)) for field in table.schema] == [
        ("custom_id", "string"),
        ("url", "string"),
        ("body", "string"),
    ]
    assert (table.num_rows, table.notes, table.files[0].format) == (2, (), "openai-batch")


def test_a_custom_id_that_comes_again_is_noted_in_the_plan_across_files(tmp_path):
    table = found(tmp_path, a=[line("1"), line("2"), line("1")], b=[line("3"), line("2"), "\n", line("3")])
    assert [file.repeated_rows for file in table.files] == [(2,), (1, 2)]
    assert table.notes == (
        f"3 lines have the custom_id of an earlier line: error rows, the first in {tmp_path}/a.jsonl",
    )


def test_many_lines_without_an_id_repeat_nothing(tmp_path):
    table = found(tmp_path, a=[line("1"), "{}\n", "{}\n", "no\n"])
    assert table.files[0].repeated_rows == ()
    assert "3 lines are malformed" in table.notes[0]


def test_lines_that_ask_for_something_else_are_told(tmp_path):
    table = found(tmp_path, a=[line("1"), line("2", COMPLETIONS)], b=[line("3", COMPLETIONS)])
    (note,) = url_notes(job(tmp_path), table.asked)
    first = f"the first is line 2 of {tmp_path}/a.jsonl"
    assert note == f"2 lines ask for {COMPLETIONS}, and this job answers {CHAT}: error rows, {first}"


def test_a_job_that_answers_no_line_is_refused(tmp_path):
    table = found(tmp_path, a=[line("1", COMPLETIONS)])
    with pytest.raises(InvalidValueError, match=r"input.url is /v1/chat/completions: no line asks for it; 1 ask for"):
        require_asked(job(tmp_path), table.asked)
    require_asked(job(tmp_path, input={"url": COMPLETIONS}), table.asked)


def test_a_compressed_file_is_read_and_another_format_refused(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(line("1").encode()))
    assert find_inputs(InputSpec(path=str(tmp_path), format="openai-batch")).num_rows == 1
    (tmp_path / "b.csv").write_text("a\n1\n")
    with pytest.raises(UnreadableFileError, match=r"it is csv, and input.format openai-batch is JSON Lines"):
        find_inputs(InputSpec(path=str(tmp_path), format="openai-batch"))


def test_a_file_of_other_lines_is_refused_whole(tmp_path):
    with pytest.raises(UnreadableFileError, match="none of its 2 lines is a row; line 1: text: a request has no such"):
        found(tmp_path, a=['{"text": "a"}\n'] * 2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"input": {"format": "auto", "url": CHAT}}, "url is of format openai-batch"),
        ({"input": {"models": []}}, "models is empty"),
        ({"input": {"columns": ["text"]}}, "the columns are custom_id, url, body"),
        ({"input": {"url": "/v1/embeddings"}}, "input.url is of another task than generate"),
        ({"input": {"url": "/v1/images"}}, "input.url"),
        ({"task": "classify"}, "of tasks generate and embed, and task is classify"),
        ({"prompt": {"template": "{{ body }}"}}, "prompt.template makes prompts of columns"),
        ({"output": {"path": "o", "format": "openai-batch", "keep": ["url"]}}, "needs the column custom_id"),
        ({"input": {"format": "auto"}, "output": {"path": "o", "format": "openai-batch"}}, "needs input.format"),
        ({"task": "embed", "generation": {"reasoning": "auto"}}, "generation.reasoning is of task generate"),
    ],
)
def test_specs_that_do_not_fit_together(changes, said):
    if changes.get("input", {}).get("format") == "auto":
        changes = {"prompt": {"template": "x"}, **changes}
    with pytest.raises(ParquetryError, match=said):
        job("in.jsonl", **changes)
