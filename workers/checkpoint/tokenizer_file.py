"""Reads tokenizer.json, which is checked before the library that computes with it sees it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tokenizers

from parquetry.schemas.errors import UnusableModelError
from parquetry.workers.checkpoint.json_file import model_json

#: characters of a regular expression; those of published tokenizers have some hundred
_MAX_PATTERN = 20_000
#: what a pattern says in repetitions, one within another, is compiled as often as they say
_MAX_REPEATS = 100_000


def read_tokenizer(file: Path) -> tokenizers.Tokenizer:
    """Raises UnusableModelError for a file that is no tokenizer."""
    for pattern in _patterns(model_json(file)):
        if len(pattern) > _MAX_PATTERN or _repeats(pattern) > _MAX_REPEATS:
            raise UnusableModelError(model=str(file.parent), reason=f"{file.name} has a pattern that is too large")
    try:
        return tokenizers.Tokenizer.from_file(str(file))
    # the library raises plain Exception, and panics of Rust are none even of these
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = f"{file.name} is no tokenizer that can be read ({str(error)[:200]})"
        raise UnusableModelError(model=str(file.parent), reason=reason) from None


def _patterns(value: Any) -> Iterator[str]:
    """Every regular expression of the parts around the vocabulary."""
    waiting = [part for key, part in value.items() if key not in ("model", "added_tokens")]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            if isinstance(part.get("Regex"), str):
                yield part["Regex"]
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part


def _repeats(pattern: str) -> int:
    """The product of all repetition counts written in a pattern."""
    product = 1
    for piece in pattern.split("{")[1:]:
        counts = [int(number) for number in piece.partition("}")[0].split(",") if number.isdecimal()]
        product *= max([1, *counts])
    return product
