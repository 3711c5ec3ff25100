"""Words of each format by hand."""

from __future__ import annotations

import torch

from parquetry.workers.checkpoint.tensor_headers import TensorHeader
from parquetry.workers.loading.quantization.four_bit_layouts import (
    awq_nibbles,
    nibbles,
    problem_of,
    read_awq,
    read_compressed,
    read_gptq,
)
from parquetry.workers.loading.quantization.four_bit_scheme import FourBitScheme


def word(digits: int) -> int:
    """32 bits as torch has them."""
    return digits - (1 << 32) if digits >> 31 else digits


def test_words_are_read_from_their_lowest_bits() -> None:
    words = torch.tensor([[word(0x76543210), word(0xFEDCBA98)]], dtype=torch.int32)
    assert nibbles(words).tolist() == [list(range(16))]


def test_awq_has_even_outputs_in_the_lower_half_of_a_word() -> None:
    words = torch.tensor([[word(0x75316420), word(0xFDB9ECA8)]], dtype=torch.int32)
    assert awq_nibbles(words).tolist() == [list(range(16))]


def test_gptq_has_inputs_in_a_word_and_zero_points_less_one() -> None:
    """Eight inputs, eight outputs, one group: input i has code i, of the last output 15 - i."""
    qweight = torch.tensor([[word(0x76543210)] * 7 + [word(0x89ABCDEF)]], dtype=torch.int32)
    # stored 6 is 7, 7 is 8, and 15 is 0
    tensors = {
        "qweight": qweight,
        "qzeros": torch.tensor([[word(0xF7777776)]], dtype=torch.int32),
        "scales": torch.arange(1, 9, dtype=torch.float16)[None],
        "g_idx": torch.zeros(8, dtype=torch.int32),
    }
    read = read_gptq(tensors, FourBitScheme("gptq", 16, 1))
    assert read.codes[0].tolist() == list(range(8)) and read.codes[7].tolist() == list(range(15, 7, -1))
    assert read.zeros.tolist() == [[7, 8, 8, 8, 8, 8, 8, 0]]
    assert read.scales[0, 7] == 8 and read.groups is tensors["g_idx"]
    as_stored = read_gptq(tensors, FourBitScheme("gptq", 16))
    assert as_stored.zeros.tolist() == [[6, 7, 7, 7, 7, 7, 7, 15]]


def test_awq_has_outputs_in_a_word() -> None:
    """Two inputs, eight outputs: output i has code i of the first input and 8 + i of the second."""
    qweight = torch.tensor([[word(0x75316420)], [word(0xFDB9ECA8)]], dtype=torch.int32)
    tensors = {"qweight": qweight, "qzeros": qweight[:1], "scales": torch.ones(1, 8)}
    read = read_awq(tensors, FourBitScheme("awq", 16))
    assert read.codes.tolist() == [[i, 8 + i] for i in range(8)]
    assert read.zeros.tolist() == [list(range(8))] and read.groups is None


def test_compressed_tensors_need_not_fill_the_last_word() -> None:
    """Three inputs and two outputs in one group, zero points of two outputs in one word."""
    tensors = {
        "weight_packed": torch.tensor([[0x321], [0xFED]], dtype=torch.int32),
        "weight_scale": torch.tensor([[0.5], [0.25]]),
        "weight_shape": torch.tensor([2, 3]),
        "weight_zero_point": torch.tensor([[0x97]], dtype=torch.int32),
        "weight_g_idx": torch.full((3,), -1),
    }
    read = read_compressed(tensors, FourBitScheme("compressed-tensors", -1))
    assert read.codes.tolist() == [[1, 2, 3], [13, 14, 15]]
    assert read.scales.tolist() == [[0.5, 0.25]] and read.zeros.tolist() == [[7, 9]] and read.groups is None
    del tensors["weight_zero_point"]
    assert read_compressed(tensors, FourBitScheme("compressed-tensors", -1)).zeros is None


def test_tensors_of_another_shape_are_told() -> None:
    scheme = FourBitScheme("gptq", 32)
    stored = {
        "qweight": TensorHeader("I32", (8, 16)),
        "qzeros": TensorHeader("I32", (2, 2)),
        "scales": TensorHeader("F16", (2, 16)),
    }
    assert problem_of(stored, scheme, 64, 16) is None
    # AWQ's words lie along the other side
    assert "has a qweight of [8, 16], where a layer of its size has [64, 2]" in problem_of(
        stored, FourBitScheme("awq", 32), 64, 16
    )
    assert "has a qzeros of [2, 2]" in problem_of(stored, FourBitScheme("gptq", 16), 64, 16)
    del stored["scales"]
    assert problem_of(stored, scheme, 64, 16) == "has no scales"
