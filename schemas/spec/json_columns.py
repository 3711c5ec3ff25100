"""Arrow columns of the objects that a JSON schema describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

_SIMPLE: dict[str, pa.DataType] = {
    "string": pa.string(), "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_(),
}  # fmt: skip
#: what has no type of its own is kept as JSON text
TEXT = pa.string()
#: references within references; a schema that goes deeper is recursive
_MAX_DEPTH = 16
Schema = Mapping[str, Any]


class NoObjectError(ValueError):
    """The schema describes something else than an object with named properties."""


def json_fields(schema: Schema) -> list[pa.Field]:
    """A column for each property of the schema's object. Raises NoObjectError.

    Strings, integers, numbers, booleans, lists and objects have their own types; what may be of several types, and what
    the schema leaves open, is text with the JSON of the value.
    """
    found = _resolved(schema, schema, _MAX_DEPTH)
    properties = found.get("properties")
    if not isinstance(properties, Mapping) or not properties:
        raise NoObjectError("it describes no object with properties, so there are no columns to make")
    return [pa.field(name, _kind(schema, value, _MAX_DEPTH) or TEXT) for name, value in properties.items()]


def _kind(root: Schema, schema: object, depth: int) -> pa.DataType | None:
    """The type of a value, None where only text holds it."""
    found = _resolved(root, schema, depth)
    kinds = {_kind_of_name(root, found, name, depth) for name in _names(found) if name != "null"}
    if kinds == {pa.int64(), pa.float64()}:
        return pa.float64()
    return kinds.pop() if len(kinds) == 1 else None


def _names(schema: Schema) -> list[str]:
    """The JSON types that a schema allows; [] where it does not say."""
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return sorted({_name_of(value) for value in values})
    named = schema.get("type", [])
    return [named] if isinstance(named, str) else list(named)


def _name_of(value: object) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
    return names.get(type(value), "object")


def _kind_of_name(root: Schema, schema: Schema, name: str, depth: int) -> pa.DataType | None:
    if name == "array":
        inner = _kind(root, schema.get("items", {}), depth - 1) if depth else None
        return None if inner is None else pa.list_(inner)
    if name == "object":
        return _struct(root, schema.get("properties", {}), depth)
    return _SIMPLE.get(name)


def _struct(root: Schema, properties: object, depth: int) -> pa.DataType | None:
    if not isinstance(properties, Mapping) or not properties or not depth:
        return None
    fields = [(name, _kind(root, value, depth - 1)) for name, value in properties.items()]
    # text within an object would be no longer what the model wrote
    return None if any(kind is None for _, kind in fields) else pa.struct(fields)


def _resolved(root: Schema, schema: object, depth: int) -> Schema:
    """The schema behind references, and behind a choice between one schema and null."""
    if not isinstance(schema, Mapping) or not depth:
        return {}
    if isinstance(schema.get("$ref"), str):
        return _resolved(root, _at(root, schema["$ref"]), depth - 1)
    for key in ("anyOf", "oneOf", "allOf"):
        options = [option for option in schema.get(key, ()) if option != {"type": "null"}]
        if len(options) == 1:
            return _resolved(root, options[0], depth - 1)
        if options:
            return {}
    return schema


def _at(root: Schema, reference: str) -> object:
    """What a reference within the document leads to, nothing where it leads elsewhere."""
    at: object = root if reference.startswith("#") else {}
    for step in filter(None, reference.removeprefix("#").split("/")):
        at = at.get(step.replace("~1", "/").replace("~0", "~"), {}) if isinstance(at, Mapping) else {}
    return at
