"""Merged projections give what the separate ones gave, hold nothing twice and can be undone."""

from __future__ import annotations

import torch
from torch import nn

from parquetry.workers.fusing.merged_projections import MergedProjection, can_merge, merge_projections
from tests.unit.workers.packed.packed_families import tiny_model


def test_merged_projections_equal_separate_ones() -> None:
    model = tiny_model("qwen2").to(torch.bfloat16)
    ids = torch.arange(3, 20)[None]
    with torch.inference_mode():
        want = model(ids).logits
        put_back = merge_projections(model)
        got = model(ids).logits
    assert isinstance(model.model.layers[0].self_attn.q_proj, MergedProjection)
    assert torch.allclose(got, want, rtol=2e-2, atol=2e-2)
    assert model.model.layers[0].self_attn.k_proj.owner[0].outputs == []
    put_back()
    with torch.inference_mode():
        assert torch.allclose(model(ids).logits, want, rtol=2e-2, atol=2e-2)


def test_merged_weights_are_shared_with_the_parts() -> None:
    model = tiny_model("llama").to(torch.bfloat16)
    attention = model.model.layers[0].self_attn
    q_proj = attention.q_proj
    merge_projections(model)
    merged = attention.q_proj.owner[0]
    assert merged.weight.data_ptr() == q_proj.weight.data_ptr()
    assert merged.widths == [32, 16, 16]


def test_only_plain_half_precision_layers_are_merged() -> None:
    class Quantized(nn.Linear):
        pass

    half = {"dtype": torch.bfloat16}
    plain = nn.Linear(4, 4, **half)
    assert can_merge([plain, nn.Linear(4, 2, **half)])
    assert not can_merge([plain, Quantized(4, 4, **half)])
    assert not can_merge([plain, nn.Linear(4, 4, bias=False, **half)])
    assert not can_merge([nn.Linear(4, 4), nn.Linear(4, 4)])
    assert not can_merge([plain, None])
