"""Names, types and shapes of safetensors weights, read without the weights."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeGuard

from parquetry.schemas.bounded_json import parse_json
from parquetry.schemas.errors import UnusableModelError

_MAX_HEADER_BYTES = 100 << 20
_MOST_DIMENSIONS = 64
#: what torch.compile, and training on several devices, put before every name
_WRAPPERS = ("_orig_mod.", "module.")
_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "U64": 64, "I32": 32, "U32": 32, "I16": 16, "U16": 16}


@dataclass(frozen=True)
class TensorHeader:
    """One tensor as a safetensors file declares it, such as F32 or BF16 of a shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def is_float(self) -> bool:
        """Whether it is stored in a dtype that loading converts to the model's own."""
        return self.dtype in ("F64", "F32", "F16", "BF16")

    @property
    def num_bytes(self) -> int:
        """Bytes on disk; types of fewer bits than 8 are stored packed in bytes."""
        return self.num_elements * _BITS.get(self.dtype, 8) // 8


def read_headers(files: Sequence[Path]) -> dict[str, TensorHeader]:
    """Every tensor of the files by name. Raises UnusableModelError for a file that is not safetensors."""
    headers: dict[str, TensorHeader] = {}
    for file in files:
        for name, entry in _read_header(file).items():
            if name != "__metadata__":
                headers[name] = TensorHeader(entry["dtype"], tuple(entry["shape"]))
    return headers


def wrapper_prefix(names: Iterable[str]) -> str:
    """What wrappers of training put before every one of the names, such as `module._orig_mod.`; mostly nothing."""
    left, prefix = list(names), ""
    while left and (found := next((one for one in _WRAPPERS if all(name.startswith(one) for name in left)), "")):
        prefix += found
        left = [name.removeprefix(found) for name in left]
    return prefix


def _read_header(file: Path) -> dict[str, dict]:
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > _MAX_HEADER_BYTES:
                raise ValueError(f"its header claims {length} bytes")
            header = stream.read(length)
            if len(header) < length:
                raise ValueError(f"its header claims {length} bytes, and {len(header)} are there")
            return checked_header(parse_json(header.decode()), file.stat().st_size - 8 - length)
    except (OSError, ValueError, struct.error) as error:
        reason = f"{file.name} is not a readable safetensors file ({error})"
        raise UnusableModelError(model=str(file.parent), reason=reason) from None


def checked_header(header: Any, num_bytes: int) -> dict[str, dict]:
    """The header of a file with so many bytes behind it. Raises ValueError where it cannot be that of its tensors."""
    if not isinstance(header, dict):
        raise ValueError("its header is no object")
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    ends = sorted(_span(name, entry, num_bytes) for name, entry in tensors.items())
    behind = next((second for first, second in pairwise(ends) if second[0] < first[1]), None)
    if behind is not None:
        raise ValueError(f"the bytes of {behind[2]} overlap those of another tensor")
    return tensors


def _span(name: str, entry: Any, num_bytes: int) -> tuple[int, int, str]:
    """Where the bytes of a tensor begin and end."""
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        raise ValueError(f"{name[:80]} has no type")
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    if not _are_counts(shape) or len(shape) > _MOST_DIMENSIONS:
        raise ValueError(f"{name[:80]} has no shape")
    if not _are_counts(offsets) or len(offsets) != 2 or not offsets[0] <= offsets[1] <= num_bytes:
        raise ValueError(f"the bytes of {name[:80]} lie outside the file")
    stored, bits = 8 * (offsets[1] - offsets[0]), _BITS.get(entry["dtype"])
    # a header may come without its bytes, as in a list of what a larger model holds
    if stored and bits is not None and math.prod(shape) * bits != stored:
        raise ValueError(f"{name[:80]} has not the bytes of its shape")
    return offsets[0], offsets[1], name[:80]


def _are_counts(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(number) is int and 0 <= number < 1 << 60 for number in value)
