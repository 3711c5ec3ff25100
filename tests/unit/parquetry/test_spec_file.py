import json

import pytest

from parquetry.schemas.errors import InvalidValueError, SpecNotFoundError, SpecSyntaxError, UnknownKeyError
from parquetry.spec_file import OverrideError, apply_override, load_spec, read_mapping

YAML = """
task: generate
input: {path: data/*.parquet}
output: {path: out}
model: {id: some/model}
prompt:
  template: "{{ text }}"
"""


@pytest.fixture
def spec_path(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(YAML)
    return path


def test_yaml_and_json_give_the_same_spec(spec_path, tmp_path):
    as_json = tmp_path / "job.json"
    as_json.write_text(json.dumps(read_mapping(spec_path)))
    assert load_spec(as_json) == load_spec(spec_path)


def test_relative_paths_stay_as_written(spec_path):
    assert load_spec(spec_path).input.path == "data/*.parquet"


def test_overrides_are_yaml_values_and_the_last_one_wins(spec_path):
    overrides = ["model.quantization=fp4", "model.quantization=nf4", "generation.stop=[a, b]", "input.limit=7"]
    spec = load_spec(spec_path, overrides)
    assert (spec.model.quantization, spec.generation.stop, spec.input.limit) == ("nf4", ["a", "b"], 7)


def test_an_override_may_hold_equals_signs_and_be_empty():
    data = {}
    apply_override(data, "prompt.template=a=b")
    apply_override(data, "input.limit=")
    assert data == {"prompt": {"template": "a=b"}, "input": {"limit": None}}


def test_an_override_that_is_no_yaml_is_text(spec_path):
    spec = load_spec(spec_path, ["prompt.template=Say: {{ text }}"])
    assert spec.prompt.template == "Say: {{ text }}"
    with pytest.raises(InvalidValueError, match=r"input\.limit is '\['"):
        load_spec(spec_path, ["input.limit=["])


def test_an_override_goes_into_a_section_that_is_written_short():
    data = {"input": ["a", "b"], "model": "m"}
    apply_override(data, "input.limit=3")
    apply_override(data, "model.quantization=nf4")
    assert data == {"input": {"path": ["a", "b"], "limit": 3}, "model": {"id": "m", "quantization": "nf4"}}


def test_an_empty_section_is_made():
    data = {"generation": None}
    apply_override(data, "generation.seed=3")
    assert data == {"generation": {"seed": 3}}


@pytest.mark.parametrize("text", ["model", "=x", ".id=x", "model.=x", "task.kind=x", "model..id=x"])
def test_an_unusable_override_is_named(text):
    with pytest.raises(OverrideError, match="--set") as caught:
        apply_override({"task": "generate"}, text)
    assert text in str(caught.value)


def test_an_override_with_an_unknown_key_suggests_the_nearest(spec_path):
    with pytest.raises(UnknownKeyError, match=r"model\.quantisation.*did you mean 'quantization'"):
        load_spec(spec_path, ["model.quantisation=nf4"])


def test_a_wrong_type_is_named(spec_path):
    with pytest.raises(InvalidValueError, match=r"generation\.max_new_tokens"):
        load_spec(spec_path, ["generation.max_new_tokens=many"])


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("job.yaml", "task: generate\n  input: x\n", "line 2"),
        ("job.yaml", "task: [generate\n", "line 2"),
        ("job.yaml", "task: a\ninput: b\ntask: c\n", "line 3.*'task' is given twice"),
        ("job.yaml", "model: !!python/object/apply:os.system [true]\ntask: a", "line 1"),
        ("job.yaml", "- a\n- b\n", "a list"),
        ("job.yaml", "", "nothing"),
        ("job.yaml", "a: \x01", "not allowed|special characters"),
        ("job.json", '{"task": \n}', "line 2"),
        ("job.json", "[1]", "a list"),
    ],
)
def test_a_syntax_error_says_where(tmp_path, name, text, reason):
    (tmp_path / name).write_text(text)
    with pytest.raises(SpecSyntaxError, match=reason):
        load_spec(tmp_path / name)


def test_bytes_that_are_not_text_are_a_syntax_error(tmp_path):
    (tmp_path / "job.yaml").write_bytes(b"task: \xff\n")
    with pytest.raises(SpecSyntaxError, match="byte 6 is not UTF-8"):
        load_spec(tmp_path / "job.yaml")


def test_no_file_and_a_folder_are_not_found(tmp_path):
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(SpecNotFoundError):
            load_spec(path)
