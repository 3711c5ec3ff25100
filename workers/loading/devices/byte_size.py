"""Amounts of memory as people write them."""

from __future__ import annotations

import re

from parquetry.schemas.errors import InvalidValueError

_UNITS = {
    "": 1,
    "K": 1000,
    "M": 1000**2,
    "G": 1000**3,
    "T": 1000**4,
    "KI": 2**10,
    "MI": 2**20,
    "GI": 2**30,
    "TI": 2**40,
}
_PATTERN = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([KMGT]I?)?B?\s*$", re.IGNORECASE)


def parse_bytes(text: str, *, key: str) -> int:
    """Bytes of a text such as 40GiB, 512MB or 1000; raises InvalidValueError that names `key`."""
    match = _PATTERN.match(text)
    if match is None:
        raise InvalidValueError(key=key, value=repr(text), reason="write a number and a unit, such as 40GiB")
    return int(float(match[1]) * _UNITS[(match[2] or "").upper()])


def format_bytes(count: float) -> str:
    """`count` bytes in the largest unit of which there is at least one, such as 14.9 GiB."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
