"""Rows of a padded batch answer as they do alone: what a family's padding spoils is found at load, and kept apart."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, GenerationConfig

from parquetry.schemas.errors import UnusableModelError
from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.checks.narrowing import narrowed, owners
from parquetry.workers.checks.rounding import rounded_otherwise
from parquetry.workers.engine import Engine
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.hosting.engine_choice import load_engine
from parquetry.workers.padded.long_rope import long_rope_reason
from parquetry.workers.request import EncodeRequest, GenerationRequest, SamplingParams
from tests.unit.workers.checks import uneven_families
from tests.unit.workers.packed.packed_families import tiny_model

torch.set_num_threads(1)
logging.getLogger("transformers").setLevel(logging.ERROR)
pytestmark = pytest.mark.filterwarnings("default")

#: several lengths, two of them twice, and beyond every window of the tiny models
LENGTHS = (3, 9, 40, 60, 17, 2, 9, 17)
NUM_OUTPUTS = 10
#: which rows may share a batch, by family
GENERATORS = {
    **dict.fromkeys(("llama", "bloom"), "any"),
    **dict.fromkeys(("deepseek_v32", "glm_moe_dsa", "deepseek_v4", "recurrent_gemma", "xlnet", "roformer"), "equal"),
    # its cached state is that of the last row
    "rwkv": "none",
}
CLASSIFIERS = {
    **dict.fromkeys(("bert", "roberta", "bart", "xlnet"), "any"),
    **dict.fromkeys(("fnet", "convbert", "nystromformer", "yoso"), "equal"),
}
FACTS = {"any": set(), "equal": {"equal_lengths_only"}, "none": {"one_row_at_a_time"}}


def rows(begin: Sequence[int] = (), end: Sequence[int] = ()) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [np.array([*begin, *random.integers(10, 250, length), *end], np.int32) for length in LENGTHS]


def load(folder: Path, task: str, dtype: str = "float32") -> Engine:
    model = ModelSpec(id=str(folder), dtype=dtype, backend="transformers")
    return load_engine(EngineSpec(task=task, model_path=str(folder), model=model, device="cpu"))


def drain(engine: Engine) -> dict[int, object]:
    results = {}
    while engine.num_unfinished:
        results |= {result.id: result for result in engine.step()}
    assert {result.error for result in results.values()} == {None}
    return results


def facts_of(engine: Engine) -> set[str]:
    return engine.describe().keys() & {"equal_lengths_only", "one_row_at_a_time"}


@pytest.mark.parametrize("family", sorted(GENERATORS))
def test_rows_generate_what_they_do_alone(family: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = uneven_families.write_causal(tmp_path / family, family)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    config = GenerationConfig(max_new_tokens=NUM_OUTPUTS, do_sample=False, eos_token_id=3, pad_token_id=0)
    wanted = []
    for row in rows():
        ids = torch.from_numpy(row).long()[None]
        output = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)[0, len(row) :]
        wanted.append(output[output != 3].tolist())

    engine = load(folder, "generate")
    params = SamplingParams(max_new_tokens=NUM_OUTPUTS)
    engine.add([GenerationRequest(id=i, prompt_ids=row, row=i, params=params) for i, row in enumerate(rows())])
    found = drain(engine)

    assert [found[number].output_ids.tolist() for number in range(len(LENGTHS))] == wanted
    assert facts_of(engine) == FACTS[GENERATORS[family]]
    assert ("which is slower" in caplog.text) == (GENERATORS[family] != "any")


def alone(model: torch.nn.Module, row: np.ndarray) -> np.ndarray:
    """Probabilities of the labels, or the mean vector."""
    ids = torch.from_numpy(row).long()[None]
    with torch.inference_mode():
        output = model(input_ids=ids, attention_mask=torch.ones_like(ids))
    return (output.logits.softmax(-1) if "logits" in output else output.last_hidden_state.mean(1))[0].numpy()


@pytest.mark.parametrize("task", ["classify", "embed"])
@pytest.mark.parametrize("family", sorted(CLASSIFIERS))
def test_texts_are_encoded_as_they_are_alone(family: str, task: str, tmp_path: Path) -> None:
    if (family, task) == ("bart", "embed"):
        pytest.skip("an encoder-decoder has no class for its encoder")
    write = uneven_families.write_classifier if task == "classify" else uneven_families.write_body
    folder = write(tmp_path / family, family)
    kind = AutoModelForSequenceClassification if task == "classify" else AutoModel
    model = kind.from_pretrained(folder).eval()
    texts = rows([1], [3])
    wanted = [alone(model, row) for row in texts]

    model_spec = ModelSpec(id=str(folder), dtype="float32", backend="transformers")
    engine = load_engine(
        EngineSpec(task=task, model_path=str(folder), model=model_spec, device="cpu", pooling="mean", normalize=False)
    )
    engine.add([EncodeRequest(id=number, token_ids=row) for number, row in enumerate(texts)])
    found = drain(engine)

    for number, values in enumerate(wanted):
        np.testing.assert_allclose(found[number].values, values, atol=1e-4 * np.abs(values).max())
    assert facts_of(engine) == FACTS[CLASSIFIERS[family]]


def test_only_the_side_that_is_right_is_padded(tmp_path: Path) -> None:
    sides = {
        family: load(uneven_families.write_classifier(tmp_path / family, family), "classify").side
        for family in ("bert", "xlnet")
    }
    assert sides == {"bert": "right", "xlnet": "left"}


@pytest.mark.parametrize(
    ("family", "dtype"),
    [("deepseek_v4", "bfloat16")]
    + [
        (family, dtype) for family in ("llama", "bloom", "recurrent_gemma", "rwkv") for dtype in ("bfloat16", "float16")
    ],
)
def test_noise_of_half_precision_neither_hides_it_nor_passes_for_it(family: str, dtype: str, tmp_path: Path) -> None:
    engine = load(uneven_families.write_causal(tmp_path / family, family), "generate", dtype)
    assert facts_of(engine) == FACTS[GENERATORS[family]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "gpt_oss", "deepseek_v3"])
def test_rounding_that_chooses_another_expert_is_no_fault(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    from tests.models import byte_tokenizer

    tokenizer = byte_tokenizer(chat=False)
    tiny_model(family, vocab_size=len(tokenizer)).to(dtype).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert facts_of(load(tmp_path, "generate", str(dtype).removeprefix("torch."))) == set()


def test_a_model_that_cannot_compute_a_row_is_refused_in_a_sentence(tmp_path: Path) -> None:
    folder = uneven_families.write_causal(tmp_path / "model", "deepseek_v4")
    # transformers keeps some of its layers in float32, which float16 rows do not go through
    with pytest.raises(UnusableModelError, match="a row of 13 tokens fails in it"):
        load(folder, "generate", "float16")


def test_windows_are_narrow_for_as_long_as_it_takes() -> None:
    model = tiny_model("gemma2", sliding_window=64)
    before = [vars(owner).get("sliding_window") for owner in owners(model)]
    with narrowed(model, 4):
        inside = {vars(owner).get("sliding_window") for owner in owners(model)}
    assert inside == {4, None} and 64 in before
    assert [vars(owner).get("sliding_window") for owner in owners(model)] == before


def test_rounding_otherwise_leaves_the_model_as_it_was() -> None:
    model = tiny_model("llama")
    ids = torch.arange(10)[None]
    with torch.inference_mode():
        before = model(ids).logits
        with rounded_otherwise(model, 0):
            moved = model(ids).logits
        after = model(ids).logits
    assert torch.equal(before, after)
    error = float((moved - before).norm() / before.norm())
    assert 1e-8 < error < 1e-4


def test_positions_that_follow_the_longest_row() -> None:
    rope = {"rope_type": "longrope", "original_max_position_embeddings": 64, "rope_theta": 10000.0,
            "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}  # fmt: skip
    model = tiny_model("phi3", rope_parameters=rope, original_max_position_embeddings=64)
    assert "beyond 64 tokens" in (long_rope_reason(model.config, 128) or "")
    assert long_rope_reason(model.config, 64) is None
    assert long_rope_reason(tiny_model("llama").config, 1 << 20) is None
