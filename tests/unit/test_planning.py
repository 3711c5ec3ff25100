"""Plans: counts, a sample from all over the input, and whether the weights fit."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from producers.planning import device_weight_bytes, plan
from schemas.job import JobSpec, ModelSpec
from tests.unit.tiny_model import WINDOW, make_model
from workers.checkpoint import Checkpoint


@pytest.fixture
def spec(tmp_path):
    (tmp_path / "in").mkdir()
    texts = ["a b"] * 500 + ["a b a b"] * 499 + ["a " * WINDOW]
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
    made = plan(spec(), device_bytes=1 << 30)
    assert (made.rows, made.files, made.shards, made.rows_per_shard) == (1000, 1, 10, 100)
    assert made.max_output_tokens == 1000 * 16
    assert made.context_window == WINDOW
    assert made.weights_fit
    assert made.queue == "default"
    assert not (tmp_path / "out").exists()


def test_the_sample_is_spread(spec):
    made = plan(spec(), sample_rows=80)
    assert made.sampled_rows == 80
    # half of the rows have two tokens, half have four
    assert 2 < made.mean_prompt_tokens < 4
    assert made.prompt_tokens == round(made.mean_prompt_tokens * 1000)
    assert made.max_prompt_tokens == 4


def test_rows_that_are_too_long_are_counted(spec):
    made = plan(spec(), sample_rows=10_000)
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


@pytest.mark.parametrize(
    ("config", "options", "factor"),
    [
        ({"torch_dtype": "bfloat16"}, {}, 1.0),
        ({"dtype": "float32"}, {"dtype": "float16"}, 0.5),
        ({"torch_dtype": "float32"}, {"quantization": "int8"}, 1.06 / 4),
        ({"torch_dtype": "bfloat16"}, {"quantization": "nf4"}, 0.28),
        ({"torch_dtype": "bfloat16", "quantization_config": {"quant_method": "gptq"}}, {"dtype": "float32"}, 1.0),
        ({}, {}, 1.0),
    ],
)
def test_device_weight_bytes(tmp_path, config, options, factor):
    folder = make_model(tmp_path / "m", **config)
    (folder / "model.safetensors").write_bytes(b"0" * 1000)
    model = ModelSpec(id=str(folder), **options)
    assert device_weight_bytes(Checkpoint(folder, str(folder)), model) == round(1000 * factor)


def test_what_does_not_fit(spec, tmp_path):
    made = plan(spec(), device_bytes=1)
    assert made.weights_fit is False


def test_a_quantization_that_costs_speed_is_named(spec, tmp_path):
    assert plan(spec()).warnings == ()
    (warning,) = plan(spec(model={"id": f"{tmp_path}/model", "quantization": "int8"})).warnings
    assert "int8 saves memory and costs time" in warning
