"""`parquetry init` and `schema`: what they write is a job that parses, whatever the input is like."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from parquetry.commands.first import JobFileTakenError, complete_tasks, init
from parquetry.first_job import FirstJob
from parquetry.job_schema import job_schema
from parquetry.producers.validation import _check_columns, _find_inputs, _template
from parquetry.schemas.errors import InputNotFoundError, InvalidValueError
from parquetry.schemas.spec.job import JobSpec
from tests.unit.test_docs import ROOT, job_keys

TASKS = ("generate", "classify", "embed", "score")
COLUMNS = [["text"], ["id", "body", "title"], ["a column: #1", 'quoted "so"'], ["null"], ["1"], ["größe"], []]


def spec_of(text: str) -> JobSpec:
    return JobSpec.parse(yaml.safe_load(text))


@pytest.mark.parametrize("task", TASKS)
def test_a_first_job_without_anything_is_a_valid_one(task):
    spec = spec_of(FirstJob(task=task).text())
    assert (spec.task, spec.input.path, spec.output.path) == (task, "data/*.parquet", "out/")


@pytest.mark.parametrize("names", COLUMNS, ids=str)
@pytest.mark.parametrize("task", TASKS)
def test_it_names_columns_that_the_input_has(tmp_path, task, names):
    columns = {"n": pa.array([1]), **{name: pa.array(["x"]) for name in names}}
    path = tmp_path / "in put.parquet"
    pq.write_table(pa.table(columns), path)
    spec = spec_of(FirstJob(task=task, input=str(path), model="m: n").text())
    assert (spec.input.path, spec.model.id) == (str(path), "m: n")
    if names:
        _check_columns(spec, _find_inputs(spec, _template(spec)), _template(spec))


def test_the_input_that_is_named_must_be_there(tmp_path):
    with pytest.raises(InputNotFoundError):
        FirstJob(task="embed", input=str(tmp_path / "none.parquet")).text()


def test_nothing_is_overwritten(tmp_path, capsys):
    options = {"task": "embed", "input": None, "model": None, "output": "out", "with_schema": True}
    init(tmp_path / "job.yaml", **options)
    assert capsys.readouterr().out.strip() == str(tmp_path / "job.yaml")
    assert spec_of((tmp_path / "job.yaml").read_text()).task == "embed"
    assert json.loads((tmp_path / "job.schema.json").read_text()) == job_schema()
    with pytest.raises(JobFileTakenError, match="it is there already"):
        init(tmp_path / "job.yaml", **options)
    with pytest.raises(JobFileTakenError, match="No such file"):
        init(tmp_path / "none/job.yaml", **options)
    with pytest.raises(InvalidValueError, match="did you mean 'embed'"):
        init(tmp_path / "other.yaml", **{**options, "task": "embd"})
    assert complete_tasks("c") == ["classify"]


def test_the_schema_takes_every_example_and_refuses_what_a_spec_refuses():
    validator = pytest.importorskip("jsonschema").Draft202012Validator(job_schema())
    for path in sorted((ROOT / "examples").glob("*.yaml")):
        assert list(validator.iter_errors(yaml.safe_load(path.read_text()))) == []
    short = {"task": "generate", "input": ["a", "b"], "output": "out", "model": "m", "prompt": "{{ text }}"}
    assert list(validator.iter_errors(short)) == []
    for wrong in ({"tusk": 1}, {"input": 7}, {"priority": 10}, {"generation": "x"}, {"model": {"idd": "m"}}):
        assert list(validator.iter_errors({**short, **wrong}))


def test_the_schema_has_every_key_and_says_what_many_are_for():
    schema = job_schema()
    found = set()
    for name, section in schema["properties"].items():
        inner = JobSpec.section(name)
        keys = schema["$defs"][inner.__name__]["properties"] if inner is not None else {"": section}
        found |= {f"{name}.{key}".rstrip(".") for key in keys}
    assert {key for key in job_keys() if key != "budget"} <= found
    assert "LoRA" in schema["$defs"]["ModelSpec"]["properties"]["adapter"]["description"]


def completed(*words: str) -> set[str]:
    """What bash would offer behind these words."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PARQUETRY_")},
        "_PARQUETRY_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(("parquetry", *words)),
        "COMP_CWORD": str(len(words)),
    }
    command = [sys.executable, "-c", "from parquetry.cli import app; app(prog_name='parquetry')"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    return set(ended.stdout.split())


def test_a_shell_completes_commands_tasks_and_keys():
    assert {"init", "schema"} <= completed("")
    assert completed("init", "--task", "e") == {"embed"}
    assert "model.quantization=nf4" in completed("run", "job.yaml", "--set", "model.quantization=n")
