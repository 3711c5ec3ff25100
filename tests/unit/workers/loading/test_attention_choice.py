"""Attention: what is refused where, and switching a loaded model."""

from __future__ import annotations

import pytest

from parquetry.schemas.errors import MissingPackageError, UnsupportedAttentionError
from parquetry.workers import packages
from parquetry.workers.loading.attention_choice import AttentionLimits, attention_name, check_attention, use_attention
from tests.unit.workers.loading.spec_cases import A100, CPU, H100, T4, engine_spec


@pytest.mark.parametrize(
    ("choice", "card", "dtype", "reason"),
    [
        ("flash_attention_2", H100, "float32", "loaded as float32"),
        ("flash_attention_2", T4, "float16", "compute capability 8.0"),
        ("flash_attention_2", CPU, "bfloat16", "runs on a CPU"),
        ("flash_attention_3", A100, "bfloat16", "compute capability 9.0"),
        ("sdpa-efficient", CPU, "float32", "needs a CUDA card"),
        ("sdpa-cudnn", H100, "float32", "bfloat16 or float16"),
        ("sdpa-flash", H100, "bfloat16", "takes no mask"),
        ("triton", CPU, "float32", "needs a CUDA card"),
    ],
)
def test_what_cannot_serve_is_refused(choice: str, card, dtype: str, reason: str) -> None:
    limits = AttentionLimits(card, dtype)
    with pytest.raises(UnsupportedAttentionError, match=reason) as caught:
        check_attention(choice, limits)
    supported = str(caught.value).partition("Supported here: ")[2].rstrip(".").split(", ")
    assert supported == limits.supported and choice not in supported and "eager" in supported


def test_the_model_class_decides_too() -> None:
    limits = AttentionLimits(H100, "bfloat16", has_sdpa=False, has_flash=False)
    assert limits.supported == ["auto", "eager", "triton"]


def test_an_h100_in_half_precision_has_most() -> None:
    supported = AttentionLimits(H100, "bfloat16").supported
    assert {"flash_attention_2", "flash_attention_3", "sdpa-cudnn", "sdpa-efficient", "triton"} <= set(supported)


def test_heads_are_repeated_for_kernels_without_groups(causal_lm) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from parquetry.workers.loading.ungrouped import IMPLEMENTATION

    model = AutoModelForCausalLM.from_pretrained(causal_lm)
    ids = torch.arange(5, 25).reshape(2, 10)
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    for given in ({}, {"attention_mask": mask}):
        use_attention(model, "eager")
        want = model(input_ids=ids, **given).logits
        model.set_attn_implementation(IMPLEMENTATION)
        got = model(input_ids=ids, **given).logits
        torch.testing.assert_close(got[0], want[0])
        torch.testing.assert_close(got[1, 4:], want[1, 4:])


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda _: None)
    with pytest.raises(MissingPackageError, match="flash-attn"):
        check_attention("flash_attention_2", AttentionLimits(H100, "bfloat16"))


def test_a_loaded_model_is_switched_in_place(causal_lm) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from parquetry.workers.checkpoint.checkpoint import Checkpoint
    from parquetry.workers.loading.model import load_model

    spec = engine_spec(causal_lm)
    model = load_model(spec, Checkpoint.resolve(spec.model), AutoModelForCausalLM)
    addresses = [weight.data_ptr() for weight in model.parameters()]
    ids = torch.arange(5, 17)[None]
    answers = {}
    for choice in ("eager", "sdpa-math", "sdpa-flash", "sdpa", "eager"):
        use_attention(model, choice)
        assert attention_name(model, choice) == choice
        answers[choice] = model(input_ids=ids).logits
    assert [weight.data_ptr() for weight in model.parameters()] == addresses
    for choice, logits in answers.items():
        torch.testing.assert_close(logits, answers["eager"], msg=choice)


def test_a_pinned_kernel_does_not_give_way(causal_lm) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(causal_lm)
    # only CUDA has it, so a CPU fails instead of taking another
    use_attention(model, "sdpa-efficient")
    with pytest.raises(RuntimeError), torch.inference_mode():
        model(input_ids=torch.arange(5, 9)[None])
    use_attention(model, "sdpa")
    model(input_ids=torch.arange(5, 9)[None])
