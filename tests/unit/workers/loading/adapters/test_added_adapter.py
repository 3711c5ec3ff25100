"""Adapters on weights of 4 bits, one for the job or several by row: as on the weights expanded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from parquetry.schemas.errors import AdapterMismatchError
from parquetry.workers.checkpoint.adapter import Adapter
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.fusing.four_bit_linear import FourBitLinear
from parquetry.workers.loading.adapters.added_adapter import AddedLinear
from parquetry.workers.loading.adapters.merged_adapter import merge
from parquetry.workers.loading.model import load_model
from parquetry.workers.loading.needs import LoadingNeeds
from tests.unit.workers.checkpoint.adapter_folders import SHAPES, write_adapter
from tests.unit.workers.loading.adapters.test_adapter_bank import generate, load
from tests.unit.workers.loading.quantization.four_bit_checkpoints import LAYOUTS, write_four_bit
from tests.unit.workers.loading.spec_cases import engine_spec

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

IDS = torch.arange(5, 29)[None]


@pytest.fixture(scope="module")
def stock(wide_lm: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module, dict[str, str]]:
    """A folder of 4 bits, its weights expanded, and folders of adapters."""
    folder = tmp_path_factory.mktemp("four-bit-adapters")
    model = AutoModelForCausalLM.from_pretrained(wide_lm)
    model.load_state_dict(write_four_bit(wide_lm, folder / "m", LAYOUTS["gptq-act-order"]))
    return folder / "m", model, {name: str(write_adapter(folder / name, model, name)) for name in SHAPES}


@pytest.mark.parametrize("name", SHAPES)
@torch.inference_mode()
def test_one_adapter_is_added(stock, name: str) -> None:
    folder, expanded, adapters = stock
    spec = engine_spec(folder, adapter=adapters[name])
    model = load_model(spec, Checkpoint.resolve(spec.model), AutoModelForCausalLM)
    before = expanded(IDS).logits
    want = merge(clone(expanded), Adapter(Path(adapters[name])), name="m")(IDS).logits
    assert torch.allclose(model(IDS).logits, want, rtol=1e-4, atol=1e-3) and not torch.allclose(want, before, atol=0.1)
    kinds = [type(module) for module in model.modules()]
    assert kinds.count(FourBitLinear) == 14 and AddedLinear in kinds and not any("peft" in k.__module__ for k in kinds)


def clone(model: torch.nn.Module) -> torch.nn.Module:
    copied = AutoModelForCausalLM.from_config(model.config)
    copied.load_state_dict(model.state_dict())
    return copied.eval()


@pytest.mark.parametrize("backend", ["packed", "transformers"])
def test_rows_choose_among_several(stock, backend: str) -> None:
    folder, _, adapters = stock
    names = [None, *SHAPES]
    found = generate(load(folder, backend=backend, adapters=adapters), names)
    alone = [generate(load(folder, backend=backend), [None])[0]]
    alone += [generate(load(folder, backend=backend, adapter=adapters[name]), [None])[0] for name in SHAPES]
    assert found == alone and len(set(map(tuple, found))) == len(names)


def test_what_cannot_be_added_is_refused_at_submit(stock, tmp_path: Path) -> None:
    folder, model, _ = stock
    adapter = write_adapter(tmp_path / "dora", model, "attention", use_dora=True)
    assert json.loads((adapter / "adapter_config.json").read_text())["use_dora"]
    spec = engine_spec(folder, adapter=str(adapter)).model
    with pytest.raises(AdapterMismatchError, match="lora_magnitude_vector, which cannot be added to weights of 4 bits"):
        LoadingNeeds(spec, Checkpoint.resolve(spec)).check()


def test_an_added_adapter_takes_memory(stock) -> None:
    folder, _, adapters = stock
    plain, added = (engine_spec(folder, **options).model for options in ({}, {"adapter": adapters["mlp"]}))
    taken = [LoadingNeeds(model, Checkpoint.resolve(model)).needed_bytes("cuda") for model in (plain, added)]
    assert taken[1] - taken[0] == 2 * Adapter(Path(adapters["mlp"])).num_elements
