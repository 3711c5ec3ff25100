"""One line of JSON as one object, or why it is none: nothing of it may change or get lost on the way."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

#: of arrays and objects within each other; deeper lines are refused, since later steps recurse as deep
MAX_DEPTH = 100
_BLANKS = " \t\r\n"
_BYTE_ORDER_MARK = "\ufeff"
#: what Python says of an integer with more digits than it reads
_TOO_MANY_DIGITS = "integer string conversion"


class UnfitJsonError(ValueError):
    """A line is no row; the text says why."""


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise UnfitJsonError(f"it has a number beyond the range of a double ({text[:20]})")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise UnfitJsonError(f"it has the key {twice!r} more than once")
    return found


#: a value and the place behind it; what `json.loads` does around this takes longer than most lines do
_scan = json.JSONDecoder(parse_float=_float).scan_once  # type: ignore[attr-defined]
_scan_strictly = json.JSONDecoder(object_pairs_hook=_unique).scan_once  # type: ignore[attr-defined]


def decode_object(data: bytes) -> tuple[dict[str, Any], frozenset[str]]:
    """The object of a line, and the keys whose values were repaired: what is not Unicode is U+FFFD in them.

    Raises UnfitJsonError for what is no object, for an object that is nested too deeply, and for one that has keys
    twice, keys that are not Unicode, or numbers that no double holds.
    """
    # a byte that is not UTF-8 becomes half of a surrogate pair, as JSON itself can write one
    text = data.decode("utf-8", "surrogateescape").removeprefix(_BYTE_ORDER_MARK).strip(_BLANKS)
    try:
        found = _decode(text)
    except (ValueError, RecursionError) as error:
        raise UnfitJsonError(_reason(error)) from None
    if not isinstance(found, dict):
        raise UnfitJsonError(f"it is JSON, but no object ({_kind(found)})")
    if len(text) > MAX_DEPTH and text.count("[") + text.count("{") > MAX_DEPTH and not _is_shallow(found, MAX_DEPTH):
        raise UnfitJsonError(f"it is nested more than {MAX_DEPTH} levels deep")
    # the same number for all but lines that have `":` in a text or `" :` anywhere, which are looked at twice
    if text.count('":') != _num_keys(found):
        _scan_strictly(text, 0)
    may_be_halves = "\\ud" in text or "\\uD" in text or not is_unicode(text)
    return _repaired(found) if may_be_halves else (found, frozenset())


def _decode(text: str) -> Any:
    """The one value of a line. Raises ValueError, RecursionError."""
    try:
        value, end = _scan(text, 0)
    except StopIteration as stop:
        raise ValueError(f"no value at character {stop.value + 1}") from None
    if end != len(text):
        raise ValueError(f"it goes on behind its value, at character {end + 1}")
    return value


def _reason(error: Exception) -> str:
    if isinstance(error, UnfitJsonError):
        return str(error)
    if _TOO_MANY_DIGITS in str(error):
        return f"it has an integer of more than {sys.get_int_max_str_digits():,} digits"
    return f"it is not valid JSON ({'nested too deeply' if isinstance(error, RecursionError) else str(error)[:120]})"


def _kind(value: Any) -> str:
    return {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}.get(type(value), "a number")


def _is_shallow(value: Any, depth: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth >= 0 and all(_is_shallow(item, depth - 1) for item in inner)


def _num_keys(value: Any) -> int:
    if isinstance(value, dict):
        return len(value) + sum(map(_num_keys, value.values()))
    return sum(map(_num_keys, value)) if isinstance(value, list) else 0


def _repaired(found: dict[str, Any]) -> tuple[dict[str, Any], frozenset[str]]:
    if not all(map(is_unicode, found)):
        raise UnfitJsonError("it has a key that is not valid Unicode")
    clean = {name: _clean(value) for name, value in found.items()}
    # keys within values may be repaired too, so equality alone does not tell
    return clean, frozenset(name for name, value in found.items() if clean[name] != value)


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return value if is_unicode(value) else repaired_text(value)
    if isinstance(value, dict):
        return {_clean(name): _clean(item) for name, item in value.items()}
    return [_clean(item) for item in value] if isinstance(value, list) else value


def is_unicode(text: str) -> bool:
    """Whether the text has no half of a surrogate pair, which stands for what is no text."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def repaired_text(text: str) -> str:
    """The text with U+FFFD for every half of a surrogate pair."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
