"""Plans: counts, a sample from all over the input, and whether the weights fit."""

from __future__ import annotations

import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquetry.producers.plan.card_sheets import CARD_SHEETS
from parquetry.producers.plan.duration import MeasuredRows
from parquetry.producers.plan.planning import plan
from parquetry.producers.plan.target import Target
from parquetry.schemas.spec.job import JobSpec
from tests.unit.fake_driver import FakeGpu, write_driver, write_program
from tests.unit.workers.loading.spec_cases import write_headers
from tests.unit.workers.tiny_model import CONTEXT_WINDOW, make_model


@pytest.fixture
def spec(tmp_path):
    (tmp_path / "in").mkdir()
    texts = ["a b"] * 500 + ["a b a b"] * 499 + ["a " * CONTEXT_WINDOW]
    pq.write_table(pa.table({"text": texts}), tmp_path / "in" / "a.parquet", row_group_size=100)
    make_model(tmp_path / "model")

    def make(**sections) -> JobSpec:
        return JobSpec.parse(
            {
                "task": "generate",
                "input": {"path": f"{tmp_path}/in"},
                "output": {"path": f"{tmp_path}/out"},
                "model": {"id": f"{tmp_path}/model"},
                "prompt": {"template": "{{ text }}"},
                "generation": {"max_new_tokens": 16},
                "shards": {"rows": 100},
                **sections,
            }
        )

    return make


def test_counts(spec, tmp_path):
    made = plan(spec(), target=Target(num_bytes=1 << 30))
    assert (made.rows, made.files, made.shards, made.rows_per_shard) == (1000, 1, 10, 100)
    assert made.max_output_tokens == 1000 * 16
    assert made.context_window == CONTEXT_WINDOW
    assert made.weights_fit
    assert made.queue == "default"
    assert not (tmp_path / "out").exists()


def test_the_sample_is_spread(spec):
    made = plan(spec(), max_sampled_rows=80)
    assert made.sampled_rows == 80
    # half of the rows have two tokens, half have four
    assert 2 < made.mean_prompt_tokens < 4
    assert made.prompt_tokens == round(made.mean_prompt_tokens * 1000)
    assert made.max_prompt_tokens == 4


def test_rows_that_are_too_long_are_counted(spec):
    made = plan(spec(), max_sampled_rows=10_000)
    assert made.sampled_rows == 1000
    assert made.sampled_error_rows == 1


def test_a_limit_is_respected(spec, tmp_path):
    made = plan(spec(input={"path": f"{tmp_path}/in", "limit": 7}))
    assert (made.rows, made.shards, made.sampled_rows) == (7, 1, 7)


def test_encoding_generates_nothing(spec):
    made = plan(spec(task="embed", prompt={}, model={"id": spec().model.id, "backend": "optimum"}))
    assert made.max_output_tokens == 0
    assert made.queue == "optimum"


def test_plans_are_plain_data(spec):
    assert plan(spec()).model_dump(mode="json")["task"] == "generate"


#: one matrix of a linear layer, and a table that no quantization touches
TENSORS = {"model.layers.0.mlp.up_proj.weight": ("F32", (100, 64)), "model.embed_tokens.weight": ("F32", (10, 64))}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 2 * 7040),
        ({"dtype": "float32"}, 4 * 7040),
        ({"quantization": "int8"}, 6400 + 4 * 100 + 2 * 640),
        ({"quantization": "nf4"}, int(0.516 * 6400) + 2 * 640),
    ],
)
def test_the_weights_on_a_device_are_what_loading_counts(spec, tmp_path, options, expected):
    write_headers(make_model(tmp_path / "model", dtype="float32") / "model.safetensors", TENSORS)
    made = plan(spec(model={"id": f"{tmp_path}/model", **options}), target=Target(num_bytes=round(expected / 0.9) + 1))
    assert made.device_weight_bytes == expected
    assert made.weights_fit


PLAN = """
import sys
from parquetry.producers.plan.card_sheets import CARD_SHEETS
from parquetry.producers.plan.duration import MeasuredRows
from parquetry.producers.plan.planning import plan
from parquetry.schemas.spec.job import JobSpec
assert plan(JobSpec.model_validate_json(sys.argv[1])).rows == 1000
print(*({"torch", "transformers", "huggingface_hub"} & set(sys.modules)))
"""


def test_planning_loads_no_torch(spec):
    command = [sys.executable, "-c", PLAN, spec().model_dump_json()]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == []


def test_what_does_not_fit(spec, tmp_path):
    write_headers(tmp_path / "model" / "model.safetensors", TENSORS)
    assert plan(spec(), target=Target(num_bytes=7040)).weights_fit is False


def test_the_smallest_visible_gpu_is_planned_for(spec, driver, monkeypatch):
    write_driver(driver, FakeGpu(), FakeGpu(uuid="GPU-b", mebibytes="24576"))
    assert plan(spec()).device_bytes == 24 << 30
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert plan(spec()).device_bytes == 81559 << 20


def test_a_machine_without_gpus_leaves_the_fit_open(spec, driver):
    made = plan(spec())
    assert (made.device_bytes, made.weights_fit, made.warnings) == (None, None, ())


def test_a_driver_that_does_not_answer_is_a_warning(spec, driver):
    write_program(driver, "#!/bin/sh\necho out of luck; exit 9\n")
    made = plan(spec())
    assert (made.device_bytes, made.weights_fit) == (None, None)
    assert "out of luck" in made.warnings[0]


def test_a_quantization_that_costs_speed_is_named(spec, tmp_path):
    assert plan(spec()).warnings == ()
    (warning,) = plan(spec(model={"id": f"{tmp_path}/model", "quantization": "int8"})).warnings
    assert "int8 saves memory and costs time" in warning


SHAPE = {
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "hidden_size": 64,
    "intermediate_size": 128,
    "vocab_size": 100,
}


@pytest.fixture
def shaped(spec, tmp_path, driver):
    """The spec of a model whose config tells its layers."""
    make_model(tmp_path / "model", **SHAPE)
    write_headers(tmp_path / "model" / "model.safetensors", TENSORS)
    return spec


def test_a_named_card_is_planned_for_wherever_the_plan_is_made(shaped):
    found = plan(shaped(), target=Target.of("h100"), price_per_gpu_hour=3.6)
    assert (found.device, found.device_bytes) == ("NVIDIA H100", 81_559 << 20)
    memory = found.device_memory
    assert memory.weights == found.device_weight_bytes and memory.rows_at_once > 1
    assert found.prediction.source.startswith("the roofline of NVIDIA H100")
    least, likely, most = found.prediction.seconds
    assert 0 < least < likely < most
    assert found.prediction.money == pytest.approx(tuple(s / 1000 for s in found.prediction.seconds))
    assert found.prediction.output_tokens[2] == found.max_output_tokens


def test_rows_measured_here_tell_the_lengths_of_outputs_elsewhere(shaped):
    measured = MeasuredRows(64, 10.0, [4] * 64)
    here = plan(shaped(), measured=measured).prediction
    assert here.seconds[1] == pytest.approx(10.0 * 1000 / 64) and "measured here" in here.source
    there = plan(shaped(), target=Target.of("h100"), measured=measured).prediction
    assert there.output_tokens == (4000, 4000, 4000) and "64 rows here" in there.source
    assert there.seconds[1] < 1


def test_what_a_named_card_would_refuse_is_a_warning(spec, tmp_path):
    job = spec(model={"id": f"{tmp_path}/model", "quantization": "fp8"})
    (warning,) = plan(job, target=Target.of("a100")).warnings
    assert warning.startswith("NVIDIA A100 would refuse the job") and "8.9" in warning
    assert plan(job, target=Target.of("h100")).warnings == ()


def test_a_card_too_small_for_a_row_is_told_of_and_no_time(shaped):
    small = Target("NVIDIA H100", 10 << 20, CARD_SHEETS["h100"])
    found = plan(shaped(), target=small)
    assert found.prediction is None and found.device_memory.rows_at_once == 0
    assert "less than one row takes" in found.warnings[0]


def test_prompts_that_begin_alike_are_told_of(spec):
    assert plan(spec()).shared_prefix_tokens >= 1
    assert plan(spec(prompt={"template": "b a b {{ text }}"})).shared_prefix_tokens > plan(spec()).shared_prefix_tokens
