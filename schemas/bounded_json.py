"""JSON that somebody else wrote, read within bounds: a few megabytes of brackets would take gigabytes as objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

#: what lists, objects and values of a text may take as Python objects, roughly
_MAX_BYTES = 400 << 20
_OF_A_CONTAINER = 100
_OF_A_VALUE = 60
#: of a whole file; a tokenizer of a million tokens has a tenth of it
_MAX_FILE_BYTES = 256 << 20


def parse_json(text: str) -> Any:
    """The value in a text. Raises ValueError, also where it is nested too deeply or holds too many values."""
    taken = _OF_A_CONTAINER * (text.count("{") + text.count("[")) + _OF_A_VALUE * text.count(",")
    if taken > _MAX_BYTES:
        raise ValueError(f"its values would take about {taken >> 20} MiB")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(file: Path) -> Any:
    """The value in a file, an empty object where there is no file. Raises OSError and ValueError."""
    if not file.is_file():
        return {}
    size = file.stat().st_size
    if size > _MAX_FILE_BYTES:
        raise ValueError(f"it has {size >> 20} MiB")
    return parse_json(file.read_text(encoding="utf-8"))
