"""Bytes a model's weights take once they are loaded, from the headers of its files."""

from __future__ import annotations

from collections.abc import Mapping

from parquetry.schemas.spec.job import Quantization
from parquetry.workers.checkpoint.tensor_headers import TensorHeader

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
#: bytes a weight of a quantized matrix takes; the scales of 4-bit blocks are in it, those of rows are added
_QUANTIZED_BYTES: dict[str, float] = {"int8": 1, "fp8": 1, "int8-weight-only": 1, "nf4": 0.516, "fp4": 0.516}
_ROW_SCALE_BYTES = 4
#: tensors of zero points of 4 bits, eight to a word
_ZERO_POINTS = (".qzeros", ".weight_zero_point")
#: tensors of codes of 4 bits, eight to a word, and what lies beside them
_CODES = (".qweight", ".weight_packed")
_BESIDE_CODES = (*_ZERO_POINTS, ".scales", ".g_idx", ".weight_g_idx", ".weight_shape")
#: parts of a name that stay as they are: tables and heads, and experts, which are loaded fused into one tensor
_KEPT = ("embed", "lm_head", "wte", "wpe", "norm", "score.", "classifier.", "experts.")


def loaded_bytes(
    headers: Mapping[str, TensorHeader], *, dtype: str, quantization: Quantization = "none", own_4_bit: bool = False
) -> int:
    """Bytes of all weights as `dtype`, with the matrices of linear layers in the quantization's own format.

    `own_4_bit`: weights stored in 4 bits are read by our own layers, which keep zero points as numbers of the dtype.
    """
    total = sum(_tensor_bytes(name, header, dtype, quantization) for name, header in headers.items())
    return total + (_zero_point_bytes(headers, dtype) if own_4_bit else 0)


def _zero_point_bytes(headers: Mapping[str, TensorHeader], dtype: str) -> int:
    """What unpacked zero points take beyond those of the files; at most, since those that are all alike are dropped."""
    words = sum(header.num_elements for name, header in headers.items() if name.endswith(_ZERO_POINTS))
    return words * (8 * DTYPE_BYTES[dtype] - 4)


def expanded_bytes(headers: Mapping[str, TensorHeader], *, dtype: str) -> int:
    """Bytes of all weights as `dtype` where those quantized ahead are expanded to plain numbers."""
    return sum(num_weights(name, header) for name, header in headers.items()) * DTYPE_BYTES[dtype]


def num_weights(name: str, header: TensorHeader) -> int:
    """Weights that a tensor holds, however few bits each has; none in those that tell how to read others."""
    if "_scale" in name or name.endswith(_BESIDE_CODES):
        return 0
    # MXFP4 keeps two weights in each byte of the tensors it calls blocks
    return header.num_elements * (8 if name.endswith(_CODES) else 2 if name.endswith("_blocks") else 1)


def _tensor_bytes(name: str, header: TensorHeader, dtype: str, quantization: Quantization) -> int:
    if not header.is_float:
        return header.num_bytes
    if quantization != "none" and is_quantizable(name, header):
        scales = _ROW_SCALE_BYTES * header.shape[0] if _QUANTIZED_BYTES[quantization] == 1 else 0
        return int(header.num_elements * _QUANTIZED_BYTES[quantization]) + scales
    return header.num_elements * DTYPE_BYTES[dtype]


def is_quantizable(name: str, header: TensorHeader) -> bool:
    """Whether the tensor is the matrix of a linear layer between the first and the last."""
    is_matrix = len(header.shape) == 2 and name.endswith(".weight")
    return is_matrix and not any(part in name for part in _KEPT)
