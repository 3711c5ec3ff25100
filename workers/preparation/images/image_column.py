"""Columns of images: which types they may have, and the image references in a cell."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from parquetry.schemas.errors import InvalidValueError, RowError

#: an image as a row names it: its encoded bytes, or a path or URL
Reference = bytes | str


def check_image_type(column: str, kind: pa.DataType) -> None:
    """Refuse a column that can hold no images. Raises InvalidValueError."""
    value = kind.value_type if _is_list(kind) else kind
    if not (_is_text(value) or _is_binary(value) or _is_image_struct(value)):
        reason = f"the column is {kind}; images are paths or URLs, bytes, struct<bytes, path>, or lists of these"
        raise InvalidValueError(key="prompt.image", value=repr(column), reason=reason)


def read_images(name: str, column: pa.Array) -> list[list[Reference] | RowError]:
    """The images of each row; an empty list is a row without any, a null is an error."""
    return [_row(name, column[index]) for index in range(len(column))]


def _row(name: str, cell: pa.Scalar) -> list[Reference] | RowError:
    try:
        value = cell.as_py()
        values = value if isinstance(value, list) else [value]
        return [reference(name, item) for item in values]
    except UnicodeDecodeError:
        return RowError(reason=f"{name} is not valid UTF-8")
    except RowError as error:
        return error


def reference(name: str, value: Any) -> Reference:
    """One image out of a cell. Raises RowError."""
    if isinstance(value, dict):
        # the layout of Hugging Face datasets: bytes where the file is embedded, else its path
        value = value.get("bytes") or value.get("path")
    if value is None:
        raise RowError(reason=f"{name} is null")
    if not value or not isinstance(value, bytes | str):
        raise RowError(reason=f"{name} is empty" if not value else f"{name} is no path, URL or bytes of an image")
    return value


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _is_image_struct(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind):
        return False
    fields = {field.name: field.type for field in kind}
    checks = {"bytes": _is_binary, "path": _is_text}
    return bool(fields.keys() & checks) and all(check(fields[n]) for n, check in checks.items() if n in fields)
