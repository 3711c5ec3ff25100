"""Refusals at submit: one clear sentence, and nothing written."""

from __future__ import annotations

import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquetry.producers import validation
from parquetry.producers.draft import located
from parquetry.producers.output.output_folder import require_empty
from parquetry.producers.plan.planning import plan
from parquetry.producers.submission import prepare
from parquetry.producers.validation import validate
from parquetry.schemas import webhook_hosts
from parquetry.schemas.errors import (
    BadInputError,
    ExitCode,
    InvalidValueError,
    MissingColumnError,
    NoWebhookSecretError,
    OutputInsideInputError,
    OutputNotEmptyError,
    OutputTakenError,
    TemplateError,
    UnsafeWeightsError,
    UnsupportedOptionError,
)
from parquetry.schemas.location import Location
from parquetry.schemas.manifest import job_id
from parquetry.schemas.settings import load_settings
from parquetry.schemas.spec.job import JobSpec
from parquetry.schemas.storage.opening import open_storage
from parquetry.workers.shards.reader import input_schema
from tests.unit.workers.tiny_model import CONTEXT_WINDOW, make_model


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    columns = {
        "id": pa.array([1, 2]),
        "text": pa.array(["x", "y"]),
        "chat": pa.array([[{"role": "user", "content": "x"}]] * 2),
    }
    pq.write_table(pa.table(columns), tmp_path / "in" / "a.parquet")
    make_model(tmp_path / "model")
    return tmp_path


@pytest.fixture
def spec(folder):
    """Makes a spec over the folder; nested sections are merged."""

    def make(**sections) -> JobSpec:
        data = {
            "task": "generate",
            "input": {"path": f"{folder}/in"},
            "output": {"path": f"{folder}/out"},
            "model": {"id": f"{folder}/model"},
            "generation": {"max_new_tokens": 16},
        }
        if sections.get("task", "generate") == "generate":
            data["prompt"] = {"template": "{{ text }}"}
        for key, value in sections.items():
            data[key] = {**data.get(key, {}), **value} if isinstance(value, dict) else value
        return JobSpec.parse(data)

    return make


@pytest.fixture(autouse=True)
def nothing_is_written(folder):
    before = sorted(folder.rglob("*"))
    yield
    assert sorted(folder.rglob("*")) == before


def refusal(spec: JobSpec, kind: type[BadInputError]) -> str:
    with pytest.raises(kind) as refused:
        prepare(spec)
    assert refused.value.exit_code == ExitCode.BAD_INPUT
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_good_spec_is_prepared(spec, folder):
    record = prepare(spec())
    assert record.shard_plan.num_rows == 2
    assert record.shard_plan.files[0].path == f"{folder}/in/a.parquet"
    assert record.model_path == f"{folder}/model"
    assert record.job == job_id(record.spec)
    assert record.job.startswith("generate-")


@pytest.mark.parametrize(
    ("sections", "where"),
    [
        ({"input": {"columns": ["id", "txet"]}}, "input.columns"),
        ({"output": {"keep": ["txet"]}}, "output.keep"),
        ({"prompt": {"template": "{{ txet }}"}}, "prompt.template"),
        ({"prompt": {"template": None, "messages": "txet"}}, "prompt.messages"),
        ({"task": "classify", "classify": {"text": "txet"}}, "classify.text"),
        ({"task": "score", "classify": {"text_pair": "txet"}}, "classify.text_pair"),
        ({"task": "embed", "embed": {"text": "txet"}}, "embed.text"),
    ],
)
def test_a_missing_column_is_named_with_the_nearest(spec, sections, where):
    message = refusal(spec(**sections), MissingColumnError)
    assert message.startswith(f"{where} names the column 'txet', which the input does not have (did you mean 'text'?)")


def test_a_column_that_is_not_read_is_missing(spec):
    message = refusal(spec(input={"columns": ["id"]}), MissingColumnError)
    assert "prompt.template names the column 'text'" in message
    assert message.endswith("Its columns are: id.")


@pytest.mark.parametrize("template", ["{{ text", "{% if %}", "{{ text | nofilter }}", "{% for x in text %}"])
def test_a_template_with_a_syntax_error(spec, template):
    assert "The prompt template is not usable" in refusal(spec(prompt={"template": template}), TemplateError)


def test_a_template_may_set_its_own_variables(spec):
    validate(spec(prompt={"template": "{% set n = id %}{% for w in text.split() %}{{ w }}{{ n }}{% endfor %}"}))


@pytest.mark.parametrize(
    ("column", "keep", "refused"),
    [("row", None, True), ("error", None, True), ("output", None, True), ("row", ["text"], False)],
)
def test_a_kept_column_must_not_have_an_output_name(spec, folder, column, keep, refused):
    job = spec(output={"keep": keep}, input={"path": f"{folder}/other.parquet"})
    pq.write_table(pa.table({"text": ["x"], column: ["y"]}), folder / "other.parquet")
    if refused:
        assert f"the output has a column {column!r} of its own" in refusal(job, InvalidValueError)
    else:
        prepare(job)
    (folder / "other.parquet").unlink()


def test_reserved_names_depend_on_the_task(spec, folder):
    pq.write_table(pa.table({"text": ["x"], "output": ["y"]}), folder / "other.parquet")
    prepare(spec(task="embed", input={"path": f"{folder}/other.parquet"}))
    (folder / "other.parquet").unlink()


@pytest.mark.parametrize("key", ["input.columns", "output.keep"])
def test_a_column_named_twice(spec, key):
    section, name = key.split(".")
    assert f"{key} is ['id', 'id']" in refusal(spec(**{section: {name: ["id", "id"]}}), InvalidValueError)


def test_a_column_that_cannot_hold_messages(spec):
    message = refusal(spec(prompt={"template": None, "messages": "id"}), InvalidValueError)
    assert "prompt.messages is 'id': the column is int64" in message


def test_a_column_that_cannot_hold_tools(spec):
    message = refusal(spec(prompt={"tools": "id"}), InvalidValueError)
    assert "prompt.tools is 'id': the column is int64" in message
    assert "prompt.tools" in refusal(spec(prompt={"tools": "tolls"}), MissingColumnError)


def test_a_stop_token_that_the_model_does_not_have(spec, folder):
    file = folder / "model" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "vocab_size": 32}))
    message = refusal(spec(generation={"stop_token_ids": [31, 32]}), InvalidValueError)
    assert "generation.stop_token_ids is 32: the model's token ids end at 31" in message


def test_messages_need_a_chat_template(spec, folder):
    job = spec(prompt={"template": None, "messages": "chat"})
    assert "has no chat template" in refusal(job, UnsupportedOptionError)


@pytest.mark.parametrize("tokens", [CONTEXT_WINDOW, CONTEXT_WINDOW + 1])
def test_more_new_tokens_than_the_window_holds(spec, tokens):
    message = refusal(spec(generation={"max_new_tokens": tokens}), InvalidValueError)
    assert str(tokens) in message
    assert f"window is {CONTEXT_WINDOW} tokens" in message


def test_the_window_may_be_filled_but_for_one_token(spec):
    prepare(spec(generation={"max_new_tokens": CONTEXT_WINDOW - 1}))


def test_what_engines_cannot_do_is_refused(spec, monkeypatch):
    def refuse(_generation):
        raise UnsupportedOptionError(option="generation.regex", reason="no engine has it")

    monkeypatch.setattr(validation, "checked_grammar", refuse)
    assert "generation.regex is not supported" in refusal(spec(), UnsupportedOptionError)


def test_labels_must_fit_the_model(spec, folder):
    config = json.loads((folder / "model" / "config.json").read_text())
    (folder / "model" / "config.json").write_text(json.dumps({**config, "id2label": {"0": "a", "1": "b", "2": "c"}}))
    message = refusal(spec(task="classify", classify={"labels": ["x", "y"]}), InvalidValueError)
    assert "it has 2 names, but the model has 3 classes" in message
    assert "only 3 classes" in refusal(spec(task="classify", classify={"top_k": 4}), InvalidValueError)


def test_a_model_without_safetensors(spec, folder):
    make_model(folder / "pickled")
    (folder / "pickled" / "model.safetensors").rename(folder / "pickled" / "pytorch_model.bin")
    assert "has no .safetensors weights" in refusal(spec(model={"id": f"{folder}/pickled"}), UnsafeWeightsError)
    for file in (folder / "pickled").iterdir():
        file.unlink()
    (folder / "pickled").rmdir()


@pytest.mark.parametrize("output", ["in", "in/out", "in/../in/out"])
def test_output_inside_input(spec, folder, output):
    message = refusal(spec(output={"path": f"{folder}/{output}"}), OutputInsideInputError)
    assert f"lies inside the input {folder}/in" in message


def test_output_inside_input_through_a_link(spec, folder):
    (folder / "link").symlink_to("in")
    refusal(spec(output={"path": f"{folder}/link/out"}), OutputInsideInputError)
    (folder / "link").unlink()


@pytest.mark.parametrize("backend", ["onnxruntime", "optimum"])
def test_a_back_end_for_encoders_does_not_generate(spec, folder, backend):
    how = {"task": "generate", "prompt": {"template": "{{ text }}"}, "model": {"id": f"{folder}/model"}}
    how["model"]["backend"] = backend
    assert f"model.backend {backend} for task generate" in refusal(spec(**how), UnsupportedOptionError)


def test_what_vllm_does_not_follow_is_refused_by_name(spec, folder):
    def said(**model):
        how = {"task": "embed", "model": {"id": f"{folder}/model", "backend": "vllm", **model}}
        return refusal(spec(**how), BadInputError)

    assert "nf4" in said(quantization="nf4")
    assert "model.adapter for task embed" in said(adapter="a")


def test_webhooks_need_a_secret_to_sign_with(spec):
    assert "PARQUETRY_WEBHOOK_SECRET" in refusal(spec(notify=["https://h"]), NoWebhookSecretError)


def test_webhooks_go_to_hosts_that_the_operator_lists(spec, monkeypatch):
    found = load_settings(webhook_secret="s", webhook_hosts=["hooks.example", "*.chat.example"])
    for module in (validation, webhook_hosts):
        monkeypatch.setattr(module, "settings", lambda: found)

    prepare(spec(notify=["https://hooks.example/a?b=c", "https://eu.chat.example/x"]))

    said = refusal(spec(notify=["https://other.example/planted?b=planted"]), InvalidValueError)
    assert "other.example" in said and "planted" not in said
    assert "https://" in refusal(spec(notify=["http://hooks.example/"]), InvalidValueError)


def test_foreign_files_in_the_output(spec, folder):
    (folder / "out").mkdir()
    for name in ("part-00000000.parquet", "notes.txt", ".DS_Store"):
        (folder / "out" / name).write_text("x")
    assert "files that no job wrote (notes.txt, part-00000000.parquet)" in refusal(spec(), OutputNotEmptyError)
    for file in (folder / "out").iterdir():
        file.unlink()
    (folder / "out").rmdir()


@pytest.mark.parametrize("content", ["{}", "not json", '{"version": 99}'])
def test_an_output_of_an_unknown_version(spec, folder, content):
    (folder / "out").mkdir()
    (folder / "out" / "_job.json").write_text(content)
    assert "belongs to another job" in refusal(spec(), OutputTakenError)
    (folder / "out" / "_job.json").unlink()
    (folder / "out").rmdir()


def test_an_output_of_another_job(spec, folder):
    other = prepare(spec(generation={"max_new_tokens": 17}))
    (folder / "out").mkdir()
    (folder / "out" / "_job.json").write_text(other.model_dump_json())
    assert other.job in refusal(spec(), OutputTakenError)
    assert prepare(spec(generation={"max_new_tokens": 17})).job == other.job
    (folder / "out" / "_job.json").unlink()
    (folder / "out").rmdir()


def test_onnx_runtime_has_int8_and_no_other_quantization(spec, embedder):
    model = {"id": str(embedder), "backend": "onnxruntime"}
    prepare(spec(task="embed", model={**model, "quantization": "int8"}))
    message = refusal(spec(task="embed", model={**model, "quantization": "nf4"}), UnsupportedOptionError)
    assert "model.quantization nf4 with model.backend onnxruntime is not supported: ONNX Runtime has int8" in message


@pytest.fixture
def embedder(tmp_path_factory):
    """A model folder that modules.json makes one of sentence-transformers."""
    return make_model(tmp_path_factory.mktemp("embedder") / "model")


def test_vectors_that_pooling_alone_does_not_make(spec, embedder):
    modules = [{"type": "a.Transformer", "path": ""}, {"type": "a.LSTM", "path": "2_LSTM"}]
    (embedder / "modules.json").write_text(json.dumps(modules))
    named = spec(task="embed", model={"id": str(embedder)}, embed={"pooling": "mean"})
    assert "LSTM" in refusal(named, UnsupportedOptionError)


def test_a_dense_layer_of_another_width(spec, embedder):
    modules = [{"type": "a.Transformer", "path": ""}, {"type": "a.Dense", "path": "2_Dense"}]
    (embedder / "modules.json").write_text(json.dumps(modules))
    (embedder / "config.json").write_text(json.dumps({"hidden_size": 8}))
    (embedder / "2_Dense").mkdir()
    (embedder / "2_Dense" / "config.json").write_text('{"in_features": 16, "out_features": 4}')
    (embedder / "2_Dense" / "model.safetensors").write_bytes((embedder / "model.safetensors").read_bytes())
    message = refusal(spec(task="embed", model={"id": str(embedder)}), UnsupportedOptionError)
    assert "pooling mean gives 8 numbers, but its 2_Dense takes 16" in message


def test_more_numbers_than_the_vectors_have(spec, embedder):
    (embedder / "config.json").write_text(json.dumps({"hidden_size": 8}))
    model = {"id": str(embedder)}
    prepare(spec(task="embed", model=model, embed={"dimensions": 8}))
    message = refusal(spec(task="embed", model=model, embed={"dimensions": 9}), InvalidValueError)
    assert "embed.dimensions is 9: the model's vectors have 8 numbers" in message


def test_a_prompt_that_the_model_does_not_have(spec, embedder):
    model = {"id": str(embedder)}
    message = refusal(spec(task="embed", model=model, embed={"prompt": "query"}), InvalidValueError)
    assert "embed.prompt is 'query': the model has no prompts" in message
    (embedder / "modules.json").write_text('[{"type": "a.Transformer", "path": ""}]')
    prompts = {"prompts": {"query": "Query: ", "document": ""}}
    (embedder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    prepare(spec(task="embed", model=model, embed={"prompt": "query"}))
    message = refusal(spec(task="embed", model=model, embed={"prompt": "qeury"}), InvalidValueError)
    assert "the model's prompts are query, document (did you mean 'query'?)" in message


def test_an_odd_pooling_may_be_named_another(spec, embedder):
    (embedder / "pool").mkdir()
    (embedder / "pool" / "config.json").write_text('{"pooling_mode": "softmax"}')
    (embedder / "modules.json").write_text('[{"type": "a.Pooling", "path": "pool"}]')
    model = {"id": str(embedder)}
    assert "softmax" in refusal(spec(task="embed", model=model), UnsupportedOptionError)
    prepare(spec(task="embed", model=model, embed={"pooling": "mean"}))


def test_one_job_however_its_paths_are_spelled(spec, folder, monkeypatch):
    monkeypatch.chdir(folder)
    relative = spec(input={"path": "in/"}, output={"path": "./out/"}, model={"id": "model"})
    assert job_id(located(relative)) == job_id(located(spec()))
    assert located(located(relative)) == located(relative)


def test_priority_does_not_make_another_job(spec):
    assert job_id(located(spec(priority=0))) == job_id(located(spec(priority=9)))
    assert job_id(located(spec(output={"path": "/elsewhere"}))) != job_id(located(spec()))


def test_limit_drops_files_behind_it(spec, folder):
    record = prepare(spec(input={"path": [f"{folder}/in", f"{folder}/in/*.parquet"], "limit": 1}))
    assert record.shard_plan.bounds == (0, 1)


def test_producers_load_no_torch_and_no_worker_code():
    program = (
        "import sys, parquetry.producers.plan.planning, parquetry.producers.submission\n"
        "heavy = {'torch', 'transformers', 'celery', 'onnxruntime'}\n"
        "print(sorted(name for name in heavy if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_job_that_came_between_is_not_foreign(tmp_path_factory):
    # between the look for _job.json and this one, another submission put it there and its first part was committed
    storage = open_storage(Location.parse(str(tmp_path_factory.mktemp("elsewhere"))))
    storage.put_if_absent("part-00000000.parquet", b"")
    with pytest.raises(OutputNotEmptyError):
        require_empty(storage)
    storage.put_if_absent("_job.json", b"{}")
    require_empty(storage)


def test_an_encoder_decoder_is_no_model_for_the_packed_engine(folder, spec):
    make_model(folder / "model", model_type="t5", is_encoder_decoder=True)

    found = refusal(spec(model={"backend": "packed"}), UnsupportedOptionError)

    assert "t5 models have an encoder beside the decoder; set model.backend to auto" in found


@pytest.fixture
def odd_names(folder):
    """Columns that are no identifiers."""
    columns = {"text": ["c"], "text-2": ["d"], "Review Text": ["good"], "user.name": ["u"], "nothing": pa.nulls(1)}
    pq.write_table(pa.table(columns), folder / "in" / "a.parquet")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ text-2 }}", r'it computes text - 2; the column of that name is written row\["text-2"\]'),
        ("{{ Review Text }}", r"line 1: .*a column whose name has spaces or other signs is written row"),
        (
            "{{ text.__class__.__mro__ }}",
            "each of the first 1 rows: the template does what is not allowed",
        ),
        ("{{ text / 2 }}", "it fails for each of the first 1 rows: the template failed: TypeError"),
        ("{{ text.missing }}", "it fails for each of the first 1 rows"),
        (
            "{{ ('ab' * 7000000)|unique|list }}",
            "it fails for each of the first 1 rows: the template cannot be rendered",
        ),
    ],
)
def test_a_template_that_no_row_gets_through(spec, odd_names, template, reason):
    with pytest.raises(TemplateError, match=reason) as refusal:
        prepare(spec(prompt={"template": template}))
    assert refusal.value.exit_code == ExitCode.BAD_INPUT


def test_a_template_whose_rows_are_null_is_no_fault_of_the_template(spec, odd_names):
    assert prepare(spec(prompt={"template": "{{ nothing }}"})).shard_plan.num_rows == 1


@pytest.mark.parametrize(
    ("template", "near"), [("{{ user.name }}", 'row["user.name"]'), ("{{ Review }}", 'row["Review Text"]')]
)
def test_a_column_that_is_no_identifier_is_suggested_as_it_is_written(spec, odd_names, template, near):
    with pytest.raises(MissingColumnError) as refusal:
        prepare(spec(prompt={"template": template}))
    assert f"(did you mean {near}?)" in str(refusal.value)


def test_the_whole_row_is_read_where_the_template_takes_it(spec, odd_names):
    record = prepare(spec(prompt={"template": "{{ row | tojson }}"}, output={"keep": ["text"]}))
    assert input_schema(record).names == ["text", "Review Text", "nothing", "text-2", "user.name"]
    record = prepare(spec(prompt={"template": '{{ row["Review Text"] }}'}, output={"keep": ["text"]}))
    assert input_schema(record).names == ["text", "Review Text"]


def test_a_template_without_columns_warns(spec, odd_names):
    assert "prompt.template names no column" in plan(spec(prompt={"template": "hello"})).warnings[0]
