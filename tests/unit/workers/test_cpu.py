"""What a processor's list of instructions means for dtypes and int8."""

from __future__ import annotations

import pytest

from parquetry.workers.cpu import Cpu, this_cpu


def processor(machine: str, *instructions: str) -> Cpu:
    return Cpu(machine, frozenset(instructions))


@pytest.mark.parametrize(
    ("instructions", "name"),
    [
        (("avx2", "fma"), None),
        (("avx512f", "avx512_bf16"), "avx512_bf16"),
        (("amx_bf16", "amx_tile"), "amx_bf16"),
        (("asimd", "bf16"), "bf16"),
    ],
)
def test_the_instruction_for_bfloat16(instructions: tuple[str, ...], name: str | None) -> None:
    assert processor("x86_64", *instructions).bf16 == name


@pytest.mark.parametrize(
    ("machine", "instructions", "saturates"),
    [
        ("x86_64", ("avx2",), True),
        ("x86_64", ("avx512f", "avx512bw"), True),
        ("x86_64", ("avx512f", "avx512_vnni"), False),
        ("x86_64", ("avx2", "avx_vnni"), False),
        ("aarch64", ("asimd",), False),
    ],
)
def test_int8_sums_are_cut_off_on_x86_without_vnni(machine: str, instructions: tuple, saturates: bool) -> None:
    assert processor(machine, *instructions).saturates_int8 is saturates


def test_what_is_not_listed_is_not_trusted() -> None:
    unknown = Cpu("x86_64", None)
    assert unknown.bf16 is None
    assert unknown.saturates_int8
    assert "not listed" in unknown.summary


def test_the_summary_names_what_is_picked() -> None:
    assert processor("x86_64", "avx2").summary == (
        "x86_64: no bfloat16, so dtype auto is float32; ONNX int8 with weights of 7 bits (no VNNI)"
    )
    able = processor("x86_64", "avx512_bf16", "avx512_vnni").summary
    assert "bfloat16 by avx512_bf16" in able and "8 bits" in able


def test_this_machine_has_an_architecture() -> None:
    assert this_cpu().machine
