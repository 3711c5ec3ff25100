"""Which engine a spec gets, and what is refused with a sentence."""

from __future__ import annotations

import json
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from parquetry.schemas.errors import OtherWeightsError, UnsupportedOptionError, UnusableModelError
from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.checkpoint.forecast import FILE, Forecast
from parquetry.workers.engine import WrongAnswers
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.hosting.engine_choice import load_engine
from parquetry.workers.hosting.model_host import ModelHost
from parquetry.workers.loading import precision
from parquetry.workers.loading.bf16_speed import Bf16Verdict
from parquetry.workers.loading.model import load_model, switch_model
from parquetry.workers.packed import packed_engine
from parquetry.workers.request import GenerationRequest, SamplingParams
from tests.families.page import forecast, page
from tests.families.sweep import read


def spec_of(folder, task="generate", **model) -> EngineSpec:
    return EngineSpec(task=task, model_path=str(folder), model=ModelSpec(id=str(folder), **model))


@pytest.mark.parametrize("backend", ["onnxruntime", "optimum"])
def test_encoder_back_ends_do_not_generate(causal_lm, backend):
    with pytest.raises(UnsupportedOptionError, match=f"backend {backend} for task generate"):
        load_engine(spec_of(causal_lm, backend=backend))


def test_auto_takes_the_packed_engine_where_it_can(causal_lm):
    pytest.importorskip("parquetry.workers.packed.packed_engine")

    assert load_engine(spec_of(causal_lm)).describe()["backend"] == "packed"


def test_auto_falls_back_aloud(causal_lm, caplog):
    engine = load_engine(spec_of(causal_lm, attention="eager"))

    assert engine.describe()["backend"] == "transformers"
    assert "eager" in engine.describe()["why_not_packed"]
    assert "padded generate" in caplog.text


def test_equal_specs_share_an_engine_and_others_do_not(causal_lm):
    spec = spec_of(causal_lm)

    assert spec.key == spec_of(causal_lm).model_copy(update={"device": "cuda:0"}).key
    assert len({spec.key, spec_of(causal_lm, dtype="float16").key, spec_of(causal_lm, "classify").key}) == 3


@pytest.mark.parametrize("backend", ["packed", "transformers"])
def test_a_step_on_a_cpu_shows_life_in_every_layer(causal_lm, backend):
    pulses: list[None] = []
    engine = load_engine(spec_of(causal_lm, backend=backend), send_pulse=lambda: pulses.append(None))
    pulses.clear()
    prompt = np.asarray([1, 2, 3], dtype=np.int32)
    engine.add([GenerationRequest(id=0, prompt_ids=prompt, params=SamplingParams(max_new_tokens=2))])
    engine.step()
    assert len(pulses) >= 2, "one for each layer of the tiny model"


def test_a_host_exchanges_engines_on_one_model(causal_lm):
    host = ModelHost(lambda: None)
    first = host.build(spec_of(causal_lm))
    model, gone = first.model, weakref.ref(first)
    del first
    padded = host.build(spec_of(causal_lm, attention="eager"))
    assert gone() is None
    assert padded.describe()["attention"] == model.config._attn_implementation == "eager"
    packed = host.build(spec_of(causal_lm))
    assert packed.model is model
    packed.close()
    # the choice that was left open is the one it was loaded with
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("task", ["generate", "embed"])
@pytest.mark.parametrize(("is_fast", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_auto_asks_the_processor_and_says_so(causal_lm, tmp_path, monkeypatch, caplog, task, is_fast, dtype):
    shutil.copytree(causal_lm, tmp_path / "model")
    config = json.loads((causal_lm / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    monkeypatch.setattr(precision, "cpu_bf16", lambda: Bf16Verdict(is_fast, "timed by hand"))
    with caplog.at_level("INFO"):
        engine = load_engine(spec_of(tmp_path / "model", task))
    assert engine.describe()["dtype"] == dtype
    assert engine.provenance_notes["why_dtype"] == "timed by hand"
    assert f"as {dtype}: timed by hand" in caplog.text


def test_weights_of_another_dtype_cannot_stay(causal_lm):
    spec, other = spec_of(causal_lm), spec_of(causal_lm, dtype="bfloat16")
    checkpoint = Checkpoint.resolve(spec.model)
    model = load_model(spec, checkpoint, AutoModelForCausalLM)
    with pytest.raises(OtherWeightsError, match="they are float32, and attention auto takes bfloat16"):
        switch_model(model, other, spec, checkpoint, AutoModelForCausalLM)


def differs(*_args: object) -> None:
    raise WrongAnswers("packed layers differ from the stock model: layer 1 of 2 is off")


def test_a_family_that_was_to_be_packed_is_not_run_padded_in_silence(causal_lm, monkeypatch):
    """Plan has said that it is packed; padded it might take many times as long."""
    assert Forecast.of("generate", "llama").text == "packed, without padding"
    monkeypatch.setattr(packed_engine, "PackedEngine", differs)
    with pytest.raises(UnusableModelError, match=r"layer 1 of 2 is off; .*set model\.backend to transformers"):
        load_engine(spec_of(causal_lm))
    assert load_engine(spec_of(causal_lm, backend="transformers")).describe()["backend"] == "transformers"


def test_a_family_of_which_plan_said_so_runs_padded(causal_lm, monkeypatch, caplog):
    monkeypatch.setattr(packed_engine, "PackedEngine", differs)
    monkeypatch.setattr(Forecast, "of", classmethod(lambda *_: Forecast("padded", "it was tried")))
    assert load_engine(spec_of(causal_lm)).describe()["backend"] == "transformers"
    assert "layer 1 of 2 is off" in caplog.text


def test_what_plan_says_is_what_the_sweep_has_found():
    """`python -m tests.families --page` writes both."""
    results = Path("benchmarks/results")
    verdicts, oldest = (read(results / name) for name in ("families.jsonl", "families-oldest.jsonl"))
    assert Path("docs/models.md").read_text(encoding="utf-8") == page(verdicts, oldest)
    assert FILE.read_text(encoding="utf-8") == forecast(verdicts)
    assert [verdict for verdict in (*verdicts, *oldest) if verdict.way == "wrong"] == []
    assert Forecast.of("generate", "bloom").is_slow
    assert "attention interface" in Forecast.of("generate", "bloom").text
    assert Forecast.of("score", "bert").way == "packed"
    assert Forecast.of("embed", "brand-new").way == "unknown"
