"""Windows are read off the masks, however long they are and wherever the class keeps them."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from parquetry.workers.engine import UnsupportedModel
from parquetry.workers.packed.attention.windows import SHORT_WINDOW, visible_window
from parquetry.workers.packed.checks.attention_layers import find_attention_layers
from parquetry.workers.packed.options import PackedOptions
from parquetry.workers.packed.packed_engine import PackedEngine
from tests.unit.workers.checks.planted_faults import planted
from tests.unit.workers.packed.packed_families import tiny_model


def windows_of(family: str, **changes: object) -> list[int]:
    return [layer.module.packed_sliding_window for layer in find_attention_layers(tiny_model(family, **changes))]


def test_a_mask_is_read_as_the_keys_that_a_query_sees() -> None:
    causal = torch.ones(5, 5, dtype=torch.bool).tril()
    assert visible_window(causal[None, None], 0) == 0
    assert visible_window((causal & causal.triu(-2).bool())[None, None], 0) == 3
    assert visible_window(torch.where(causal, 0.0, -torch.inf)[None, None], 0) == 0
    with pytest.raises(UnsupportedModel, match="the mask of its layer 4 is no sliding window"):
        visible_window((causal & (torch.rand(5, 5) < 0.5))[None, None], 3)


@pytest.mark.parametrize("window", [3, SHORT_WINDOW, 64, 4096])
@pytest.mark.parametrize("family", ["mistral", "phimoe", "starcoder2"])
def test_every_layer_has_the_window_of_its_mask(family: str, window: int) -> None:
    assert windows_of(family, sliding_window=window) == [window, window]


@pytest.mark.parametrize("window", [3, 4096])
@pytest.mark.parametrize("family", ["gemma2", "qwen2_moe", "gpt_oss"])
def test_only_the_layers_that_slide_have_one(family: str, window: int) -> None:
    assert windows_of(family, sliding_window=window) == [window, 0]


def test_a_window_that_the_config_turns_off_is_none() -> None:
    assert windows_of("qwen2", sliding_window=4, use_sliding_window=False) == [0, 0]


def test_windows_longer_than_any_prompt_are_checked_short(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("mistral", sliding_window=100)
    with monkeypatch.context() as patch:
        # what a class that forgets its window would come to
        patch.setattr("parquetry.workers.packed.attention.windows.visible_window", lambda *_: 0)
        patch.setattr("parquetry.workers.packed.attention.windows.require_same_memory", lambda *_: None)
        with pytest.raises(UnsupportedModel, match="layer 1 of 2 is off by"):
            PackedEngine(tiny_model("mistral", sliding_window=6), None, (), PackedOptions(num_blocks=32))
    engine = PackedEngine(model, None, (), PackedOptions(num_blocks=32))
    assert [layer.module.packed_sliding_window for layer in engine.components.layers] == [100, 100]
    assert model.config.sliding_window == 100
    (check,) = engine.components.checks
    with pytest.raises(UnsupportedModel), planted("SwappedHead", engine.runner.forward, check.layers):
        check.require(engine.runner.forward, "differs")


def test_a_cache_that_forgets_what_masks_show_is_no_window() -> None:
    """Moshi's masks know no window, and transformers' cache keeps one: a prompt longer than it is seen once, whole."""
    config = AutoConfig.for_model(
        "moshi", vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
        ffn_dim=64, head_dim=8, sliding_window=6,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(UnsupportedModel, match="the cache of its layer 1 forgets"):
        PackedEngine(model, None, (), PackedOptions(num_blocks=32))
