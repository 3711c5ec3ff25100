"""An engine that fails on the shortest row, or on one of full length, is refused when it is loaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, processors

from parquetry.schemas.errors import UnusableModelError
from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.encoding.torch_padded import TorchEncoder
from parquetry.workers.engine import Engine
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.hosting.engine_choice import load_engine
from parquetry.workers.hosting.trial_rows import has_position_table, trial_rows, tried
from parquetry.workers.packed.packed_engine import PackedEngine
from parquetry.workers.padded.generate import TransformersGenerate
from parquetry.workers.preparation.added_tokens import tokens_around
from tests.short_onnx import write_short_onnx


def spec_of(folder: Path, task: str, **model: str) -> EngineSpec:
    return EngineSpec(task=task, model_path=str(folder), model=ModelSpec(id=str(folder), **model))


@pytest.mark.parametrize(
    ("fixture", "task", "backend", "kind"),
    [
        ("causal_lm", "generate", "packed", PackedEngine),
        ("causal_lm", "generate", "transformers", TransformersGenerate),
        ("classifier", "classify", "transformers", TorchEncoder),
    ],
)
def test_an_engine_that_answers_is_given_back_with_nothing_left_to_do(fixture, task, backend, kind, request):
    spec = spec_of(request.getfixturevalue(fixture), task, backend=backend)
    engine = load_engine(spec)
    assert tried(engine, spec) is engine
    assert isinstance(engine, kind)
    assert engine.num_unfinished == 0
    engine.close()


def test_rows_are_as_the_tokenizer_makes_them_and_as_long_as_may_come(classifier):
    short, full = trial_rows(spec_of(classifier, "classify"), Checkpoint.resolve(ModelSpec(id=str(classifier))))
    assert short.tolist() == [2, 3]
    assert len(full) == 64
    assert (full[0], full[-1]) == (2, 3)


def test_a_vocabulary_that_knows_no_letter_has_rows_of_its_own_tokens(classifier, tmp_path):
    folder = shutil.copytree(classifier, tmp_path / "model")
    tokenizer = Tokenizer(models.WordPiece({"[CLS]": 0, "[SEP]": 1, "w1": 2, "w2": 3}))
    tokenizer.add_special_tokens(["[CLS]", "[SEP]"])
    ends = [("[CLS]", 0), ("[SEP]", 1)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    tokenizer.save(str(folder / "tokenizer.json"))
    short, full = trial_rows(spec_of(folder, "classify"), Checkpoint.resolve(ModelSpec(id=str(folder))))
    assert short.tolist() == [0, 1]
    assert len(full) == 64 and full.max() < 4
    before, after = tokens_around(tokenizer)
    assert (before, after) == ([("[CLS]", 0)], [("[SEP]", 1)])


def test_a_table_of_positions_is_seen_in_the_files(classifier, causal_lm):
    tables = [has_position_table(Checkpoint.resolve(ModelSpec(id=str(folder)))) for folder in (classifier, causal_lm)]
    assert tables == [True, False]


@pytest.mark.parametrize(
    ("longest", "reason"), [(10, "a row of 64 tokens fails in it"), (1, "a row of 2 tokens fails in it")]
)
def test_a_model_that_fails_on_some_length_is_refused_in_a_sentence(longest, reason, classifier):
    spec = spec_of(classifier, "classify", backend="transformers")
    engine = load_engine(spec)

    def forward(input_ids: torch.Tensor, **inputs: torch.Tensor) -> None:
        if input_ids.shape[1] > longest:
            raise RuntimeError("The expanded size of the tensor must match the existing size")
        return stock(input_ids=input_ids, **inputs)

    stock, engine._model.forward = engine._model.forward, forward
    with pytest.raises(UnusableModelError, match=reason) as error:
        tried(engine, spec)
    assert str(error.value).count("\n") == 0
    assert "The expanded size of the tensor" in str(error.value)


def test_an_onnx_file_that_fails_on_long_rows_is_refused(classifier, tmp_path):
    folder = tmp_path / "short"
    shutil.copytree(classifier, folder)
    write_short_onnx(
        folder / "model.onnx",
        vocab_size=Checkpoint.resolve(ModelSpec(id=str(folder))).config["vocab_size"],
        num_positions=16,
    )
    spec = spec_of(folder, "classify", backend="onnxruntime")
    with pytest.raises(UnusableModelError, match="a row of 64 tokens fails in it"):
        tried(load_engine(spec), spec)


def test_a_fault_of_the_device_is_none_of_the_model(classifier):
    spec = spec_of(classifier, "classify", backend="transformers")
    engine = load_engine(spec)

    def forward(**inputs: torch.Tensor) -> None:
        raise RuntimeError("CUDA error: uncorrectable ECC error encountered")

    engine._model.forward = forward
    with pytest.raises(RuntimeError, match="uncorrectable"):
        tried(engine, spec)


class Silent(Engine):
    """Answers every row with an error."""

    def __init__(self) -> None:
        self._ids = []

    def add(self, requests):
        self._ids += [request.id for request in requests]

    def step(self):
        from parquetry.workers.encoding.batching.queue import refused

        results = [refused(number, "the model gave values that are not finite") for number in self._ids]
        self._ids = []
        return results

    def cancel(self, ids):
        pass

    @property
    def num_unfinished(self):
        return len(self._ids)

    def describe(self):
        return {}


def test_an_engine_that_answers_no_row_is_refused_with_its_own_reason(classifier):
    with pytest.raises(UnusableModelError, match="answers no row, tried with 2 and 64 tokens: the model gave values"):
        tried(Silent(), spec_of(classifier, "classify"))
