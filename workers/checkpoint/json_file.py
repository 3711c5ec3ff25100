"""JSON files of a model folder, none of which is taken on trust."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from parquetry.schemas.bounded_json import read_json
from parquetry.schemas.errors import UnusableModelError


def model_json(file: Path, kind: type = dict) -> Any:
    """What the file holds; an empty object or list where there is none. Raises UnusableModelError."""
    try:
        found = read_json(file) if file.is_file() else kind()
    except (OSError, ValueError) as error:
        raise UnusableModelError(model=str(file.parent), reason=f"{file.name} cannot be read ({error})") from None
    if not isinstance(found, kind):
        what = "an object" if kind is dict else "a list"
        raise UnusableModelError(model=str(file.parent), reason=f"{file.name} does not hold {what}")
    return found
