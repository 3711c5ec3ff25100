"""Objects in generated text, and their properties as cells of typed columns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa


def read_object(text: str) -> dict[str, Any]:
    """The JSON object of an output; an empty one where the text was cut short or is something else."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def property_cells(objects: Sequence[dict[str, Any]], field: pa.Field) -> list[Any]:
    """One property of each object as a value of the field's type, None where it has none that fits."""
    values = [found.get(field.name) for found in objects]
    if pa.types.is_string(field.type):
        return [_text(value) for value in values]
    return [value if _fits(value, field.type) else None for value in values]


def _text(value: Any) -> str | None:
    text = value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    # half of a surrogate pair is valid JSON, and no text
    return None if text is None else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _fits(value: Any, kind: pa.DataType) -> bool:
    try:
        pa.array([value], kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return False
    return True
