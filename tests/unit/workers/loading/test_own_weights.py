"""Weights that are missing, named otherwise or left out: never a model of random numbers, never another model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from parquetry.schemas.errors import UnusableModelError
from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.checkpoint.tensor_headers import wrapper_prefix
from parquetry.workers.encoding.onnx.export import export
from parquetry.workers.encoding.onnx.export_spec import ExportSpec
from parquetry.workers.engine import Engine
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.hosting.engine_choice import load_engine
from parquetry.workers.loading.needs import LoadingNeeds
from parquetry.workers.request import EncodeRequest, GenerationRequest, SamplingParams

IDS = np.array([7, 5, 11, 9], np.int32)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def renamed(folder: Path, target: Path, rename: Callable[[str], str | None], **config: object) -> Path:
    """A copy of a model under other names; None leaves a weight out."""
    shutil.copytree(folder, target)
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for old, weight in weights.items() if (name := rename(old)) is not None}
    save_file(kept, target / "model.safetensors", metadata={"format": "pt"})
    fields = {**json.loads((folder / "config.json").read_text()), **config}
    (target / "config.json").write_text(json.dumps(fields))
    return target


def engine(folder: Path, task: str, **model: object) -> Engine:
    spec = ModelSpec(id=str(folder), dtype="float32", **model)
    return load_engine(EngineSpec(task=task, model_path=str(folder), model=spec))


def answer(folder: Path, task: str, **model: object) -> list[float]:
    """What the model makes of one row: a vector, scores, or token ids."""
    loaded = engine(folder, task, **model)
    params = SamplingParams(max_new_tokens=8)
    is_text = task == "generate"
    loaded.add(
        [GenerationRequest(id=0, prompt_ids=IDS, params=params) if is_text else EncodeRequest(id=0, token_ids=IDS)]
    )
    found = []
    while not found:
        found = loaded.step()
    assert found[0].error is None
    return (found[0].output_ids if is_text else found[0].values).tolist()


MODELS = {"embed": "embedder", "classify": "classifier", "score": "scorer", "generate": "causal_lm"}


@pytest.fixture(params=MODELS)
def case(request) -> tuple[str, Path]:
    """A task and the folder of a model for it."""
    return request.param, request.getfixturevalue(MODELS[request.param])


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_wrappers_of_training_are_taken_off(case, tmp_path, prefix):
    task, folder = case
    wrapped = renamed(folder, tmp_path / "model", lambda name: prefix + name)
    # weights that lie at another address may be summed in another order
    assert answer(wrapped, task) == pytest.approx(answer(folder, task), abs=1e-6)


def test_another_prefix_is_refused_by_name(case, tmp_path):
    task, folder = case
    wrapped = renamed(folder, tmp_path / "model", lambda name: f"student.{name}")
    with pytest.raises(
        UnusableModelError, match=r"lack \d+ of the weights .*; they hold \d+ others, such as student\."
    ):
        engine(wrapped, task)


def test_more_layers_than_the_files_have_are_refused(case, tmp_path):
    task, folder = case
    deeper = renamed(folder, tmp_path / "model", lambda name: name, num_hidden_layers=3)
    with pytest.raises(UnusableModelError, match=rf"weights that task {task} needs, such as .*layers?\.2\."):
        engine(deeper, task)


def test_layers_that_would_be_cut_off_are_refused(case, tmp_path):
    task, folder = case
    shorter = renamed(folder, tmp_path / "model", lambda name: name, num_hidden_layers=1)
    with pytest.raises(UnusableModelError, match=r"its config\.json has no place for, such as .*layers?\.1\."):
        engine(shorter, task)


def test_a_bias_that_the_config_leaves_out_is_refused(causal_lm, tmp_path):
    weights = load_file(causal_lm / "model.safetensors")
    folder = renamed(causal_lm, tmp_path / "model", lambda name: name)
    weights["model.layers.0.self_attn.q_proj.bias"] = weights["model.layers.0.input_layernorm.weight"].clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnusableModelError, match=r"no place for, such as model\.layers\.0\.self_attn\.q_proj\.bias"):
        engine(folder, "generate")


def test_layers_that_predict_further_tokens_may_be_left_out(causal_lm, tmp_path):
    fields = {"num_hidden_layers": 1, "num_nextn_predict_layers": 1}
    assert answer(renamed(causal_lm, tmp_path / "model", lambda name: name, **fields), "generate")


def test_a_pooler_that_nobody_reads_may_be_missing(embedder, tmp_path):
    bare = renamed(embedder, tmp_path / "model", lambda name: None if name.startswith("pooler") else name)
    assert answer(bare, "embed") == pytest.approx(answer(embedder, "embed"), abs=1e-6)


@pytest.mark.parametrize("part", ["embeddings.LayerNorm.weight", "encoder.layer.1.output.dense.bias"])
def test_what_a_vector_depends_on_may_not(embedder, tmp_path, part):
    bare = renamed(embedder, tmp_path / "model", lambda name: None if name == part else name)
    with pytest.raises(UnusableModelError, match=f"lack 1 of the weights that task embed needs, such as {part}"):
        engine(bare, "embed")


def test_an_export_has_all_of_its_weights_too(embedder, tmp_path):
    bare = renamed(embedder, tmp_path / "bare", lambda name: None if "layer.1" in name else name)
    with pytest.raises(UnusableModelError, match="of the weights that task embed needs"):
        export(bare, tmp_path / "onnx", ExportSpec(task="embed"))


def test_an_export_takes_wrappers_off(embedder, tmp_path):
    wrapped = renamed(embedder, tmp_path / "model", lambda name: f"_orig_mod.{name}")
    export(wrapped, tmp_path / "onnx", ExportSpec(task="embed"))
    shutil.copytree(tmp_path / "onnx", wrapped, dirs_exist_ok=True)
    np.testing.assert_allclose(answer(wrapped, "embed", backend="onnxruntime"), answer(embedder, "embed"), atol=1e-4)


def test_optimum_which_takes_none_off_refuses_them_at_submit(embedder, tmp_path):
    wrapped = renamed(embedder, tmp_path / "model", lambda name: f"module.{name}")
    spec = ModelSpec(id=str(wrapped), backend="optimum")
    with pytest.raises(UnusableModelError, match=r"begin with module\., which only model\.backend auto"):
        LoadingNeeds(spec, Checkpoint.resolve(spec)).check()


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        ([], ""),
        (["model.a", "model.b"], ""),
        (["module.a", "b"], ""),
        (["module.a", "module.b"], "module."),
        (["_orig_mod.module.a"], "_orig_mod.module."),
    ],
)
def test_a_prefix_is_one_of_every_name(names, prefix):
    assert wrapper_prefix(names) == prefix
