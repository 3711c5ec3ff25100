"""LoRA: merged where it fits, refused from its file headers where it does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from parquetry.schemas.errors import AdapterMismatchError, ModelNotFoundError, UnsafeWeightsError
from parquetry.workers.checkpoint.adapter import Adapter
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.loading.needs import LoadingNeeds
from tests.unit.workers.loading.spec_cases import engine_spec, write_headers

# peft still asks transformers for a name that has changed
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

LAYER = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"


def fake_adapter(folder: Path, *, layer: int = 0, inputs: int = 32, kind: str = "LORA") -> Path:
    """An adapter's headers; the tiny model's q_proj is 32 x 32 and it has two layers."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"peft_type": kind, "base_model_name_or_path": "org/other-model", "r": 4}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    shapes = {LAYER.format(layer, "A"): ("F32", (4, inputs)), LAYER.format(layer, "B"): ("F32", (32, 4))}
    write_headers(folder / "adapter_model.safetensors", shapes)
    return folder


def check(model: Path, adapter: Path) -> None:
    options = engine_spec(model, adapter=str(adapter)).model
    LoadingNeeds(options, Checkpoint.resolve(options)).check()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"inputs": 64}, "changes model.layers.0.self_attn.q_proj of 32 x 64, and this model's is 32 x 32"),
        ({"layer": 7}, "a layer model.layers.7.self_attn.q_proj, which this one lacks"),
        ({"kind": "PREFIX_TUNING"}, "only LORA"),
    ],
)
def test_an_adapter_of_another_model_is_refused(causal_lm: Path, tmp_path: Path, options: dict, reason: str) -> None:
    with pytest.raises(AdapterMismatchError) as caught:
        check(causal_lm, fake_adapter(tmp_path / "adapter", **options))
    assert reason in str(caught.value) and "org/other-model" in str(caught.value)


def test_one_that_fits_passes(causal_lm: Path, tmp_path: Path) -> None:
    check(causal_lm, fake_adapter(tmp_path / "adapter"))


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"adapter_config\.json"):
        Adapter.resolve(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(UnsafeWeightsError):
        Adapter.resolve(str(tmp_path))


@pytest.fixture(scope="module")
def adapter(wide_lm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA of rank 4 with weights that change the model's answers."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(5)
    config = peft.LoraConfig(r=4, lora_alpha=64, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    folder = tmp_path_factory.mktemp("adapter")
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(wide_lm), config).save_pretrained(folder)
    return folder


def load(folder: Path, **options: object):
    from transformers import AutoModelForCausalLM

    from parquetry.workers.loading.model import load_model

    spec = engine_spec(folder, **options)
    return load_model(spec, Checkpoint.resolve(spec.model), AutoModelForCausalLM)


def test_it_is_merged(wide_lm: Path, adapter: Path) -> None:
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    ids = torch.arange(5, 25)[None]
    plain = AutoModelForCausalLM.from_pretrained(wide_lm)
    beside = peft.PeftModel.from_pretrained(plain, adapter)(input_ids=ids).logits
    merged = load(wide_lm, adapter=str(adapter))
    assert not any("lora" in name for name, _ in merged.named_modules())
    torch.testing.assert_close(merged(input_ids=ids).logits, beside, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("quantization", ["int8", "nf4", "int8-weight-only"])
def test_it_is_merged_into_quantized_weights(wide_lm: Path, adapter: Path, quantization: str) -> None:
    import torch

    pytest.importorskip("torchao" if quantization == "int8-weight-only" else "bitsandbytes")
    ids = torch.arange(5, 25)[None]

    def logits(**options: object):
        return load(wide_lm, dtype="bfloat16", **options)(input_ids=ids).logits.float()

    wanted, without = logits(adapter=str(adapter)), logits(quantization=quantization)
    found = logits(adapter=str(adapter), quantization=quantization)
    assert (found - wanted).norm() < 0.5 * (without - wanted).norm()


def grown(causal_lm: Path, folder: Path, num_new: int, *, brings_rows: bool) -> Path:
    """An adapter that was trained after the vocabulary had grown, with its new rows or without."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(causal_lm)
    model.resize_token_embeddings(model.config.vocab_size + num_new, mean_resizing=False)
    tables = {"modules_to_save": ["embed_tokens", "lm_head"]} if brings_rows else {}
    targets = ["q_proj"] if brings_rows else ["q_proj", "embed_tokens"]
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=targets, **tables))
    torch.manual_seed(0)
    for name, value in wrapped.state_dict().items():
        if ".lora_" in name or "modules_to_save" in name:
            value.normal_(0, 0.3)
    wrapped.save_pretrained(folder, save_embedding_layers=False)
    wrapped.merge_and_unload().eval().save_pretrained(folder / "merged")
    return folder


def test_the_vocabulary_grows_where_the_adapter_brings_the_rows(causal_lm: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from parquetry.workers.loading.model import load_model

    adapter = grown(causal_lm, tmp_path / "adapter", 8, brings_rows=True)
    check(causal_lm, adapter)
    spec = engine_spec(causal_lm, adapter=str(adapter), dtype="float32")
    model = load_model(spec, Checkpoint.resolve(spec.model), AutoModelForCausalLM)
    wanted = AutoModelForCausalLM.from_pretrained(adapter / "merged")
    ids = torch.tensor([[5, 9, model.config.vocab_size - 1]])
    with torch.inference_mode():
        assert torch.allclose(model(ids).logits, wanted(ids).logits, atol=1e-5)


def test_words_that_the_model_lacks_are_told_by_their_number(causal_lm: Path, tmp_path: Path) -> None:
    size = json.loads((causal_lm / "config.json").read_text())["vocab_size"]
    adapter = grown(causal_lm, tmp_path / "adapter", 8, brings_rows=False)
    with pytest.raises(AdapterMismatchError, match=f"embed_tokens of {size + 8} tokens, and this model's has {size}"):
        check(causal_lm, adapter)
