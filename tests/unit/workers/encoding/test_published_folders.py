"""Folders as they are published: sentence-transformers' keys and modules, T5 encoders, odd padding ids, positions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, T5EncoderModel

from parquetry.schemas.errors import UnsupportedOptionError, UnusableModelError
from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.checkpoint.context_window import OFFSET_POSITIONS
from parquetry.workers.checkpoint.cross_encoder import score_activation
from parquetry.workers.checkpoint.score_modules import score_modules
from parquetry.workers.encoding.positions import Positions
from parquetry.workers.engine import Engine
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.hosting.engine_choice import load_engine
from parquetry.workers.request import EncodeRequest, Encoding, GenerationRequest, SamplingParams
from tests.models import write_seq2seq

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
ROWS = [np.array([7, 5, 11, 9, 6, 8], np.int32), np.array([12], np.int32), np.array([5, 9, 13], np.int32)]


def engine_of(folder: Path, task: str, *, normalize: bool = True, **model: object) -> Engine:
    spec = ModelSpec(id=str(folder), dtype="float32", **model)
    return load_engine(EngineSpec(task=task, model_path=str(folder), model=spec, normalize=normalize))


def encoded(engine: Engine, rows: list[np.ndarray]) -> list[Encoding]:
    """In the order of the rows."""
    engine.add([EncodeRequest(id=number, token_ids=row) for number, row in enumerate(rows)])
    found: dict[int, Encoding] = {}
    while engine.num_unfinished:
        found.update({result.id: result for result in engine.step()})
    return [found[number] for number in range(len(rows))]


def rewritten(folder: Path, target: Path, **config: object) -> Path:
    """A copy with other fields in config.json."""
    shutil.copytree(folder, target)
    fields = {**json.loads((folder / "config.json").read_text()), **config}
    (target / "config.json").write_text(json.dumps(fields))
    return target


def write_modules(folder: Path, *kinds: str) -> None:
    modules = [{"idx": n, "name": str(n), "path": "" if n == 0 else f"{n}_{kind}"} for n, kind in enumerate(kinds)]
    types = [{"type": f"sentence_transformers.base.modules.{kind}"} for kind in kinds]
    listed = [{**module, **kind} for module, kind in zip(modules, types, strict=True)]
    (folder / "modules.json").write_text(json.dumps(listed))


#: where a folder may name the activation: config.json since version 4, config.json before, the settings since 5.4
SETTINGS_BY_FILE = {
    "section": lambda folder, name: {"sentence_transformers": {"activation_fn": name}},
    "old key": lambda folder, name: {"sbert_ce_default_activation_function": name},
    "settings": lambda folder, name: {},
}
ACTIVATIONS = {
    "torch.nn.modules.linear.Identity": lambda logits: logits,
    "torch.nn.modules.activation.Sigmoid": torch.sigmoid,
    "torch.nn.modules.activation.Tanh": torch.tanh,
}


def named_activation(folder: Path, target: Path, file: str, name: str) -> Path:
    written = rewritten(folder, target, **SETTINGS_BY_FILE[file](folder, name))
    if file == "settings":
        settings = {"model_type": "CrossEncoder", "activation_fn": name}
        (written / "config_sentence_transformers.json").write_text(json.dumps(settings))
    return written


@pytest.mark.parametrize("backend", ["transformers", "packed", "onnxruntime"])
@pytest.mark.parametrize("file", SETTINGS_BY_FILE)
def test_pair_scores_go_through_the_named_activation(scorer, tmp_path, monkeypatch, file, backend):
    monkeypatch.setenv("PARQUETRY_STATE_DIR", str(tmp_path / "state"))
    name = "torch.nn.modules.activation.Tanh"
    engine = engine_of(named_activation(scorer, tmp_path / "model", file, name), "score", backend=backend)
    model = AutoModelForSequenceClassification.from_pretrained(scorer, dtype=torch.float32).eval()
    with torch.inference_mode():
        wanted = [model(input_ids=torch.from_numpy(row).long()[None]).logits[0].tanh().tolist() for row in ROWS]
    assert [row.values.tolist() for row in encoded(engine, ROWS)] == [pytest.approx(row, abs=1e-4) for row in wanted]
    assert engine.describe()["activation"] == "tanh"


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_that_is_built_in(scorer, tmp_path, name):
    engine = engine_of(named_activation(scorer, tmp_path / "model", "old key", name), "score")
    model = AutoModelForSequenceClassification.from_pretrained(scorer, dtype=torch.float32).eval()
    with torch.inference_mode():
        (wanted,) = ACTIVATIONS[name](model(input_ids=torch.from_numpy(ROWS[0]).long()[None]).logits[0]).tolist()
    assert encoded(engine, ROWS[:1])[0].values.tolist() == [pytest.approx(wanted, abs=1e-5)]


def test_another_activation_is_refused_by_name(scorer, tmp_path):
    folder = named_activation(scorer, tmp_path / "model", "old key", "torch.nn.modules.activation.Softplus")
    with pytest.raises(UnsupportedOptionError, match=r"go through torch\.nn\.modules\.activation\.Softplus; those"):
        engine_of(folder, "score")


def test_a_folder_that_names_none_leaves_it_to_the_task(scorer):
    assert score_activation(Checkpoint.resolve(ModelSpec(id=str(scorer)))) is None


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        (("Transformer", "Pooling", "WordWeights", "Dense"), "Pooling, WordWeights, Dense"),
        (("Transformer", "SpladePooling"), "SpladePooling"),
    ],
)
@pytest.mark.parametrize("task", ["score", "classify"])
def test_modules_that_are_not_built_in_are_refused_by_their_names(causal_lm, tmp_path, kinds, said, task):
    folder = rewritten(causal_lm, tmp_path / "model")
    write_modules(folder, *kinds)
    with pytest.raises(UnsupportedOptionError, match=rf"task {task} .* its scores go through {said} \(modules\.json\)"):
        engine_of(folder, task)


def test_a_cross_encoder_of_an_embedders_modules_is_refused_too(embedder, tmp_path):
    folder = rewritten(embedder, tmp_path / "model")
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"model_type": "CrossEncoder"}))
    with pytest.raises(UnsupportedOptionError, match=r"its scores go through Pooling, Normalize \(modules\.json\)"):
        engine_of(folder, "score")


def test_a_classifier_that_is_one_module_is_whole(scorer, tmp_path):
    folder = rewritten(scorer, tmp_path / "model")
    write_modules(folder, "transformer.Transformer")
    assert score_modules(Checkpoint.resolve(ModelSpec(id=str(folder))), "score") is None
    assert encoded(engine_of(folder, "score"), ROWS)[0].error is None


def test_a_model_that_is_there_is_not_said_to_be_missing(causal_lm):
    with pytest.raises(UnusableModelError, match=r"^The model .* cannot be used: its files lack 1 of the weights"):
        engine_of(causal_lm, "classify")


def test_a_folder_whose_model_lies_further_in_is_told_where(embedder, tmp_path):
    shutil.copytree(embedder, tmp_path / "model" / "0_Transformer")
    modules = [{"idx": 0, "name": "0", "path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}]
    (tmp_path / "model" / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(UnusableModelError, match=r"its files lie in 0_Transformer \(modules\.json\)"):
        engine_of(tmp_path / "model", "embed")


@pytest.fixture(scope="module")
def t5(tmp_path_factory) -> Path:
    """A T5 with its decoder."""
    return write_seq2seq(tmp_path_factory.mktemp("t5") / "whole")


def encoder_only(t5: Path, target: Path) -> Path:
    """As sentence-t5 and gtr-t5 are published."""
    shutil.copytree(t5, target)
    T5EncoderModel.from_pretrained(t5).save_pretrained(target)
    return target


@pytest.mark.parametrize("form", ["whole", "encoder"])
@pytest.mark.parametrize("backend", ["auto", "onnxruntime"])
def test_a_t5_embeds_with_its_encoder(t5, tmp_path, monkeypatch, form, backend):
    monkeypatch.setenv("PARQUETRY_STATE_DIR", str(tmp_path / "state"))
    folder = t5 if form == "whole" else encoder_only(t5, tmp_path / "encoder")
    found = encoded(engine_of(folder, "embed", normalize=False, backend=backend), ROWS)
    model = T5EncoderModel.from_pretrained(t5, dtype=torch.float32).eval()
    for row, result in zip(ROWS, found, strict=True):
        with torch.inference_mode():
            wanted = model(input_ids=torch.from_numpy(row).long()[None]).last_hidden_state[0].mean(0)
        assert result.error is None
        np.testing.assert_allclose(result.values, wanted.numpy(), atol=1e-3)


def test_an_encoder_decoder_without_an_encoder_class_is_refused(tmp_path):
    folder = write_seq2seq(tmp_path / "bart", "bart")
    with pytest.raises(UnsupportedOptionError, match="no class for the encoder of bart alone"):
        engine_of(folder, "embed")


@pytest.mark.parametrize("pad_id", [-1, 1_000_000])
@pytest.mark.parametrize(("task", "fixture"), [("embed", "embedder"), ("classify", "causal_classifier")])
def test_a_padding_id_outside_of_the_table_is_none(request, tmp_path, task, fixture, pad_id):
    folder = request.getfixturevalue(fixture)
    odd = encoded(engine_of(rewritten(folder, tmp_path / "odd", pad_token_id=pad_id), task), ROWS)
    own = encoded(engine_of(folder, task), ROWS)
    for one, other in zip(odd, own, strict=True):
        assert one.error is None
        np.testing.assert_allclose(one.values, other.values, atol=1e-5)


@pytest.mark.parametrize("pad_id", [-1, 1_000_000])
@pytest.mark.parametrize("backend", ["packed", "transformers"])
def test_generation_does_not_need_a_padding_id(causal_lm, tmp_path, pad_id, backend):
    odd = rewritten(causal_lm, tmp_path / "odd", pad_token_id=pad_id)
    generation = json.loads((causal_lm / "generation_config.json").read_text())
    (odd / "generation_config.json").write_text(json.dumps({**generation, "pad_token_id": pad_id}))
    texts = [generated(engine_of(folder, "generate", backend=backend)) for folder in (odd, causal_lm)]
    assert texts[0] == texts[1]


def generated(engine: Engine) -> dict[int, list[int]]:
    params = SamplingParams(max_new_tokens=6)
    engine.add([GenerationRequest(id=number, prompt_ids=row, params=params) for number, row in enumerate(ROWS)])
    found: dict[int, list[int]] = {}
    while engine.num_unfinished:
        found.update({result.id: (result.error, *result.output_ids.tolist()) for result in engine.step()})
    return found


@pytest.fixture(scope="module")
def causal_classifier(causal_lm, tmp_path_factory) -> Path:
    """A Llama with a head of three labels, whose padding id no row has."""
    folder = tmp_path_factory.mktemp("models") / "causal-classifier"
    shutil.copytree(causal_lm, folder)
    config = AutoConfig.from_pretrained(causal_lm, num_labels=3)
    torch.manual_seed(4)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    return folder


#: sizes under the names that the families have for them
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 150,
}
MORE = {
    "esm": {"position_embedding_type": "absolute", "mask_token_id": 4},
    "layoutlmv3": {"coordinate_size": 6, "shape_size": 4, "visual_embed": False},
    "lilt": {"hidden_size": 48, "channel_shrink_ratio": 2},
    "longformer": {"attention_window": 8},
    "luke": {"entity_vocab_size": 10, "entity_emb_size": 32},
    "xmod": {"default_language": "en_XX", "languages": ["en_XX"]},
}


def tiny(family: str, **options: object) -> torch.nn.Module:
    torch.manual_seed(5)
    fixed = {"pad_token_id": 1, "max_position_embeddings": 42, **SIZES, **MORE.get(family, {}), **options}
    return AutoModel.from_config(AutoConfig.for_model(family, **fixed)).eval()


@pytest.mark.parametrize("family", OFFSET_POSITIONS)
def test_the_families_that_are_named_count_from_behind_the_padding_id(family):
    assert Positions.of(tiny(family)) == Positions(2, 40)


@pytest.mark.parametrize(
    ("family", "positions"),
    [
        ("bert", Positions(0, 42)),
        ("llama", Positions(0, 42)),
        ("nystromformer", Positions(2, 42)),
        ("bart", Positions(2, 42)),
    ],
)
def test_other_families_are_asked_too(family, positions):
    assert Positions.of(tiny(family)) == positions


def test_a_model_that_computes_no_row_is_refused():
    model = tiny("bert")
    model.encoder.layer[0] = torch.nn.Linear(3, 3)
    with pytest.raises(UnusableModelError, match="a row of 3 tokens fails in it"):
        Positions.of(model)


def test_a_row_of_the_full_window_is_computed_and_a_longer_one_refused(classifier, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(classifier, folder)
    fields = {**SIZES, "pad_token_id": 1, "max_position_embeddings": 42, "num_labels": 3}
    torch.manual_seed(6)
    AutoModelForSequenceClassification.from_config(AutoConfig.for_model("data2vec-text", **fields)).save_pretrained(
        folder
    )
    assert load_file(folder / "model.safetensors")
    rows = [np.arange(5, 5 + size, dtype=np.int32) for size in (40, 41, 1)]
    errors = [result.error for result in encoded(engine_of(folder, "classify"), rows)]
    assert errors == [None, "the text has 41 tokens, but the model takes 40", None]
    assert Checkpoint.resolve(ModelSpec(id=str(folder))).context_window == 40
