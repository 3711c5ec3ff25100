from parquetry.schemas.spec.job import JobSpec
from parquetry.tasks.report.spec_lines import spec_lines

SPEC = {
    "task": "generate",
    "input": {"path": "a"},
    "output": {"path": "b"},
    "model": {"id": "m", "quantization": "nf4"},
    "prompt": {"template": "{{ text }}"},
    "generation": {"temperature": 0.0},
}


def test_what_somebody_chose_stands_beside_its_default():
    lines = {line.key: line for line in spec_lines(JobSpec.parse(SPEC))}
    assert {key for key, line in lines.items() if line.is_chosen} == {
        "task", "input.path", "output.path", "model.id", "model.quantization", "prompt.template",
    }  # fmt: skip
    assert (lines["model.quantization"].value, lines["model.quantization"].default) == ("nf4", "none")
    assert lines["generation.max_new_tokens"].value == 256


def test_sections_of_other_tasks_are_left_out():
    sections = {line.key.partition(".")[0] for line in spec_lines(JobSpec.parse(SPEC))}
    assert "generation" in sections and "embed" not in sections and "classify" not in sections
