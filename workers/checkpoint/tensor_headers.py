"""Names, types and shapes of safetensors weights, read without the weights."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from parquetry.schemas.errors import UnusableModelError

_MAX_HEADER_BYTES = 100 << 20
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
            return json.loads(stream.read(length))
    except (OSError, ValueError, struct.error) as error:
        reason = f"{file.name} is not a readable safetensors file ({error})"
        raise UnusableModelError(model=str(file.parent), reason=reason) from None
