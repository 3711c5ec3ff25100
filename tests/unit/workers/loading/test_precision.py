"""The dtype that `auto` becomes, and why."""

from __future__ import annotations

import pytest

from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.cpu import Cpu
from parquetry.workers.loading import bf16_speed, precision
from parquetry.workers.loading.bf16_speed import Bf16Verdict, judge, product_seconds
from parquetry.workers.loading.precision import choose_precision

ABLE = Cpu("x86_64", frozenset({"avx512_bf16"}))
UNABLE = Cpu("x86_64", frozenset({"avx2"}))


@pytest.mark.parametrize(
    ("options", "stored", "kind", "dtype"),
    [
        ({}, "bfloat16", "cuda", "bfloat16"),
        ({}, "float32", "cuda", "bfloat16"),
        ({}, "bfloat16", "cpu", "float32"),
        ({"dtype": "float16"}, "bfloat16", "cpu", "float16"),
        ({"quantization": "nf4"}, "float32", "cpu", "bfloat16"),
        ({"quantization": "fp8"}, "float16", "cuda", "bfloat16"),
        ({"attention": "flash_attention_2"}, "float32", "cuda", "bfloat16"),
        ({"dtype": "float32", "attention": "flash_attention_2"}, "bfloat16", "cuda", "float32"),
        ({}, "float8_e4m3fn", "cuda", "bfloat16"),
    ],
)
def test_the_dtype_is_chosen(monkeypatch, options: dict, stored: str, kind: str, dtype: str) -> None:
    monkeypatch.setattr(precision, "cpu_bf16", lambda: Bf16Verdict(False, "slow here"))
    found = choose_precision(ModelSpec(id="m", **options), {"torch_dtype": stored}, kind)
    assert found.dtype == dtype
    assert found.reason


@pytest.mark.parametrize(
    ("stored", "dtype"), [("bfloat16", "bfloat16"), ("float16", "float32"), ("float32", "float32")]
)
def test_a_cpu_with_bfloat16_products_keeps_bfloat16_weights(monkeypatch, stored: str, dtype: str) -> None:
    monkeypatch.setattr(precision, "cpu_bf16", lambda: Bf16Verdict(True, "fast here"))
    assert choose_precision(ModelSpec(id="m"), {"dtype": stored}, "cpu").dtype == dtype


def test_the_verdict_is_the_reason(monkeypatch) -> None:
    monkeypatch.setattr(precision, "cpu_bf16", lambda: Bf16Verdict(False, "slow here"))
    assert choose_precision(ModelSpec(id="m"), {"dtype": "bfloat16"}, "cpu").reason == "slow here"


def test_a_processor_without_the_instructions_is_not_timed(monkeypatch) -> None:
    monkeypatch.setattr(bf16_speed, "product_seconds", None)
    assert judge(UNABLE) == Bf16Verdict(False, "this processor has no instructions for bfloat16")


@pytest.mark.parametrize("processor", [ABLE, Cpu("arm64", None)], ids=["listed", "unknown"])
@pytest.mark.parametrize(("half", "full", "is_fast"), [(0.001, 0.002, True), (0.009, 0.002, False)])
def test_the_instructions_are_believed_once_they_are_fast(monkeypatch, processor, half, full, is_fast) -> None:
    monkeypatch.setattr(bf16_speed, "product_seconds", lambda: (half, full))
    verdict = judge(processor)
    assert verdict.is_fast is is_fast
    assert f"{half * 1e3:.2f} ms in bfloat16 and 2.00 ms in float32" in verdict.reason


def test_a_product_takes_time_in_both() -> None:
    half, full = product_seconds()
    assert half > 0 and full > 0
