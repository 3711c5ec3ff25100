"""Model folders: what is read off them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from parquetry.schemas.errors import (
    InvalidValueError,
    MissingTokenizerError,
    ModelNotFoundError,
    UnsafeWeightsError,
    UnsupportedOptionError,
    UnusableModelError,
)
from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.checkpoint.weights import fingerprint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The least a model folder may hold."""
    write(tmp_path, "config.json", {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 512})
    write(tmp_path, "tokenizer.json", {"added_tokens": [{"id": 7, "content": "<end>"}]})
    (tmp_path / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    return tmp_path


def write(folder: Path, name: str, content: object) -> None:
    (folder / name).write_text(json.dumps(content))


def resolve(folder: Path) -> Checkpoint:
    return Checkpoint.resolve(ModelSpec(id=str(folder)))


def test_a_local_folder_is_found_relative_to_the_working_directory(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)

    checkpoint = Checkpoint.resolve(ModelSpec(id=folder.name))

    assert checkpoint.folder == folder
    assert checkpoint.reference == str(folder)
    assert checkpoint.weight_bytes == 10


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("config.json", ModelNotFoundError),
        ("model.safetensors", UnsafeWeightsError),
        ("tokenizer.json", MissingTokenizerError),
    ],
)
def test_an_incomplete_folder_is_refused(folder, name, error):
    (folder / name).unlink()

    with pytest.raises(error, match=str(folder)):
        resolve(folder)


def test_pickled_weights_are_no_weights(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")

    with pytest.raises(UnsafeWeightsError):
        resolve(folder)


def test_a_shard_that_the_index_names_must_be_there(folder):
    write(folder, "model.safetensors.index.json", {"weight_map": {"a": "model-1.safetensors"}})

    with pytest.raises(UnusableModelError, match=r"model-1\.safetensors"):
        resolve(folder)


def test_a_model_with_code_of_its_own_is_refused(folder):
    write(folder, "config.json", {"auto_map": {"AutoModel": "modeling.Evil"}})

    with pytest.raises(UnsupportedOptionError, match="TRUST_REMOTE_CODE"):
        resolve(folder)


def test_code_beside_a_family_that_transformers_knows_is_not_needed(folder):
    """Phi-3, DeepSeek-V3 and Falcon were published with code that has become transformers' own."""
    write(folder, "config.json", {"model_type": "phi3", "auto_map": {"AutoModelForCausalLM": "modeling_phi3.Phi3"}})
    assert resolve(folder).model_type == "phi3"


def test_a_folder_of_one_onnx_file_needs_no_other_weights(folder):
    (folder / "model.safetensors").unlink()
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model_quantized.onnx").write_bytes(b"x")
    found = Checkpoint.resolve(ModelSpec(id=str(folder), backend="onnxruntime"))
    assert found.onnx == folder.resolve() / "onnx" / "model_quantized.onnx"
    before = found.weights_fingerprint
    (folder / "onnx" / "model_quantized.onnx").write_bytes(b"y")
    assert Checkpoint.resolve(ModelSpec(id=str(folder), backend="onnxruntime")).weights_fingerprint != before
    with pytest.raises(UnsafeWeightsError):
        resolve(folder)


def test_one_of_several_onnx_files_is_chosen_by_name(folder):
    for name in ("model_quantized.onnx", "model_fp16.onnx"):
        (folder / name).write_bytes(b"x")
    with pytest.raises(InvalidValueError, match=r"holds model_fp16\.onnx, model_quantized\.onnx; name one of them"):
        Checkpoint.resolve(ModelSpec(id=str(folder), backend="onnxruntime"))
    named = ModelSpec(id=str(folder), backend="onnxruntime", file="model_fp16.onnx")
    assert Checkpoint.resolve(named).onnx == folder.resolve() / "model_fp16.onnx"
    with pytest.raises(InvalidValueError, match=r"model\.file"):
        Checkpoint.resolve(ModelSpec(id=str(folder), backend="onnxruntime", file="../model.onnx"))


@pytest.mark.parametrize(
    ("positions", "rope", "window"),
    [
        # as the README of Qwen2.5 has it, that of Qwen3, and DeepSeek-V3
        (32768, {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}, 131072),
        (40960, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}, 131072),
        (163840, {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096}, 163840),
        (4096, {"type": "linear", "factor": 4.0}, 4096),
    ],
)
def test_yarn_makes_a_window_longer(folder, positions, rope, window):
    config = {"architectures": ["Qwen2ForCausalLM"], "max_position_embeddings": positions, "rope_scaling": rope}
    write(folder, "config.json", config)
    assert resolve(folder).context_window == window


@pytest.mark.parametrize("name", ["no/such/folder/at/all", "../elsewhere", "/nowhere"])
def test_what_is_neither_folder_nor_hub_id_is_not_looked_up(name):
    with pytest.raises(ModelNotFoundError, match="no such folder"):
        Checkpoint.resolve(ModelSpec(id=name))


def test_eos_ids_come_from_every_place_that_names_one(folder):
    write(folder, "config.json", {"eos_token_id": 1})
    write(folder, "generation_config.json", {"eos_token_id": [2, 1]})
    write(folder, "tokenizer_config.json", {"eos_token": {"content": "<end>"}})

    assert resolve(folder).eos_ids == (1, 2, 7)


@pytest.mark.parametrize(
    ("config", "limits", "window"),
    [
        ({"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 512}, {"model_max_length": 128}, 512),
        ({"architectures": ["BertModel"], "max_position_embeddings": 512}, {"model_max_length": 128}, 128),
        ({"architectures": ["BertModel"], "max_position_embeddings": 512}, {"model_max_length": 1e30}, 512),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, {}, 512),
        ({"architectures": ["X"], "text_config": {"max_position_embeddings": 64}}, {}, 64),
        ({"architectures": ["MambaForCausalLM"]}, {}, 1 << 20),
    ],
)
def test_context_window(folder, config, limits, window):
    write(folder, "config.json", config)
    write(folder, "tokenizer_config.json", limits)

    assert resolve(folder).context_window == window


def test_labels_are_ordered_by_number(folder):
    write(folder, "config.json", {"id2label": {"10": "k", "9": "j", "0": "a"}})

    assert resolve(folder).labels == ["a", "j", "k"]


def test_a_named_default_among_several_chat_templates(folder):
    templates = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    write(folder, "tokenizer_config.json", {"chat_template": templates})

    assert resolve(folder).chat_template_for(has_tools=False) == "D"


def test_pooling_of_a_sentence_transformers_folder(folder):
    write(folder, "modules.json", [{"type": "a.Transformer", "path": ""}, {"type": "a.Pooling", "path": "p"}])
    (folder / "p").mkdir()
    write(folder / "p", "config.json", {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False})

    assert (resolve(folder).pooling.mode, resolve(folder).pooling.normalize) == ("cls", False)


@pytest.mark.parametrize(
    ("config", "mode"),
    [
        ({}, "mean"),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, "mean_sqrt_len"),
        ({"pooling_mode_weightedmean_tokens": True}, "weighted_mean"),
        # flags are joined in the library's own order, lists in theirs
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, "cls+mean"),
        ({"pooling_mode": ["mean", "lasttoken"]}, "mean+last"),
        ({"pooling_mode": "mean_sqrt_len_tokens"}, "mean_sqrt_len"),
    ],
)
def test_poolings_by_their_names(folder, config, mode):
    write(folder, "modules.json", [{"type": "a.Transformer", "path": ""}, {"type": "a.Pooling", "path": "p"}])
    (folder / "p").mkdir()
    write(folder / "p", "config.json", config)

    assert resolve(folder).pooling.mode == mode


@pytest.mark.parametrize(
    "config", [{"pooling_mode_new_tokens": True}, {"pooling_mode": ["cls", "y"]}, {"pooling_mode": "x"}]
)
def test_an_unknown_pooling_is_refused_rather_than_guessed(folder, config):
    write(folder, "modules.json", [{"type": "a.Pooling", "path": "p"}])
    (folder / "p").mkdir()
    write(folder / "p", "config.json", config)

    with pytest.raises(UnsupportedOptionError, match="not built in"):
        _ = resolve(folder).pooling.mode


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"activation_function": "mine.Swish"}, "has the activation mine.Swish"),
        ({"activation_function": "torch.nn.PReLU"}, "has the activation torch.nn.PReLU"),
        ({"module_input_name": "token_embeddings"}, "reads token_embeddings"),
        ({}, "has no model.safetensors"),
    ],
)
def test_a_dense_layer_that_cannot_be_computed_is_refused(folder, config, reason):
    write(folder, "modules.json", [{"type": "a.Transformer", "path": ""}, {"type": "a.Dense", "path": "2_Dense"}])
    (folder / "2_Dense").mkdir()
    write(folder / "2_Dense", "config.json", config)

    with pytest.raises(UnsupportedOptionError, match=f"2_Dense {reason}"):
        _ = resolve(folder).pooling


def test_modules_in_another_order_are_refused(folder):
    kinds = ["Transformer", "Pooling", "Normalize", "Dense"]
    write(folder, "modules.json", [{"type": f"a.{kind}", "path": kind} for kind in kinds])

    with pytest.raises(UnsupportedOptionError, match="the order Transformer, Pooling, Normalize, Dense"):
        _ = resolve(folder).pooling


def test_dropout_is_no_module_of_a_finished_model(folder):
    kinds = ["Transformer", "Pooling", "Dropout", "Normalize"]
    write(folder, "modules.json", [{"type": f"a.{kind}", "path": kind} for kind in kinds])

    assert resolve(folder).pooling.normalize


@pytest.mark.parametrize("kind", ["LayerNorm", "Router", "WordWeights"])
def test_other_modules_are_refused_too(folder, kind):
    write(folder, "modules.json", [{"type": "a.Transformer", "path": ""}, {"type": f"a.{kind}", "path": "d"}])

    with pytest.raises(UnsupportedOptionError, match=kind):
        _ = resolve(folder).pooling


def test_the_folder_may_say_how_many_numbers_are_kept(folder):
    write(folder, "modules.json", [{"type": "a.Transformer", "path": ""}])
    write(folder, "config_sentence_transformers.json", {"truncate_dim": 64})

    assert resolve(folder).pooling.truncate_dim == 64


def test_a_prompt_left_out_of_the_pooling_is_refused(folder):
    write(folder, "modules.json", [{"type": "a.Pooling", "path": "p"}])
    (folder / "p").mkdir()
    write(folder / "p", "config.json", {"pooling_mode_mean_tokens": True, "include_prompt": False})
    assert resolve(folder).pooling.mode == "mean"

    prompts = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
    write(folder, "config_sentence_transformers.json", prompts)
    with pytest.raises(UnsupportedOptionError, match="query: "):
        resolve(folder).pooling.prompt(None)
    assert resolve(folder).pooling.prompt("") == ""


def test_fingerprint_sees_a_changed_weight_and_a_renamed_file(tmp_path):
    file = tmp_path / "a.safetensors"
    file.write_bytes(bytes(20 << 20))
    before = fingerprint([file])

    with file.open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\x01")

    assert fingerprint([file]) != before
    assert fingerprint([file.rename(tmp_path / "b.safetensors")]) != before


def test_unreadable_json_names_the_file(folder):
    (folder / "config.json").write_text("{")

    with pytest.raises(UnusableModelError, match=r"config\.json cannot be read"):
        resolve(folder)
