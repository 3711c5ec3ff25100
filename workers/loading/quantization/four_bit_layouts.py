"""How GPTQ, AWQ and compressed-tensors lay out weights of 4 bits in a checkpoint's tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from parquetry.workers.checkpoint.tensor_headers import TensorHeader
from parquetry.workers.fusing.four_bit_linear import FourBitWeights
from parquetry.workers.loading.quantization.four_bit_scheme import FourBitScheme

#: which four bits of AWQ's words, counted from the lowest, are the first output, the second and so on
_AWQ_PLACES = [0, 4, 1, 5, 2, 6, 3, 7]

Tensors = Mapping[str, Tensor]


def nibbles(words: Tensor) -> Tensor:
    """Words (..., n) int32 as numbers below 16, (..., 8 n) uint8, from the lowest bits of each word up."""
    # a copy: one word of a row may count as contiguous with any stride
    in_bytes = words.clone(memory_format=torch.contiguous_format).view(torch.uint8)
    return torch.stack((in_bytes & 15, in_bytes >> 4), -1).flatten(-2)


def awq_nibbles(words: Tensor) -> Tensor:
    """The same in the order of AWQ."""
    return nibbles(words).unflatten(-1, (-1, 8))[..., _AWQ_PLACES].flatten(-2)


def read_gptq(tensors: Tensors, scheme: FourBitScheme) -> FourBitWeights:
    """Words of eight inputs (inputs / 8, outputs), zero points in words of eight outputs (groups, outputs / 8)."""
    # the one that is stored less 1 counts modulo 16
    zeros = (nibbles(tensors["qzeros"]) + scheme.zero_offset) & 15
    codes = nibbles(tensors["qweight"].t())
    return FourBitWeights(codes, tensors["scales"], zeros, tensors.get("g_idx"), scheme.group_size)


def read_awq(tensors: Tensors, scheme: FourBitScheme) -> FourBitWeights:
    """Words of eight outputs: (inputs, outputs / 8), and of zero points (groups, outputs / 8)."""
    codes, zeros = awq_nibbles(tensors["qweight"]).t(), awq_nibbles(tensors["qzeros"])
    return FourBitWeights(codes, tensors["scales"], zeros, None, scheme.group_size)


def read_compressed(tensors: Tensors, scheme: FourBitScheme) -> FourBitWeights:
    """Words of eight inputs (outputs, inputs / 8), scales (outputs, groups), zero points in words of eight outputs.

    Numbers from -8 to 7 are stored 8 higher, zero points among them. Inputs need not fill the last word.
    """
    num_outputs, num_inputs = (int(n) for n in tensors["weight_shape"])
    codes = nibbles(tensors["weight_packed"])[:, :num_inputs]
    zeros, groups = tensors.get("weight_zero_point"), tensors.get("weight_g_idx")
    if zeros is not None:
        zeros = nibbles(zeros.t())[:, :num_outputs]
    # -1 stands for inputs that were never given groups
    groups = None if groups is None or bool((groups < 0).all()) else groups
    return FourBitWeights(codes, tensors["weight_scale"].t(), zeros, groups, scheme.group_size)


READERS: dict[str, Callable[[Tensors, FourBitScheme], FourBitWeights]] = {
    "gptq": read_gptq,
    "awq": read_awq,
    "compressed-tensors": read_compressed,
}


def expected_shapes(scheme: FourBitScheme, num_inputs: int, num_outputs: int) -> dict[str, tuple[int, ...]]:
    """The tensors that a module of so many inputs and outputs has, and their shapes."""
    groups = 1 if scheme.group_size == -1 else -(-num_inputs // scheme.group_size)
    if scheme.method == "compressed-tensors":
        return {"weight_packed": (num_outputs, -(-num_inputs // 8)), "weight_scale": (num_outputs, groups)} | {
            "weight_shape": (2,)
        }
    words = (num_inputs // 8, num_outputs) if scheme.method == "gptq" else (num_inputs, num_outputs // 8)
    return {"qweight": words, "qzeros": (groups, num_outputs // 8), "scales": (groups, num_outputs)}


def problem_of(
    stored: Mapping[str, TensorHeader], scheme: FourBitScheme, num_inputs: int, num_outputs: int
) -> str | None:
    """Why the tensors of a module, by their names in it, are not those of a layer of that size; None where they are."""
    for name, shape in expected_shapes(scheme, num_inputs, num_outputs).items():
        found = stored.get(name)
        if found is None:
            return f"has no {name}"
        if found.shape != shape:
            return f"has a {name} of {list(found.shape)}, where a layer of its size has {list(shape)}"
    return None
