"""The ONNX file that comes with a checkpoint, found or named."""

from __future__ import annotations

from pathlib import Path

from parquetry.schemas.errors import InvalidValueError

#: where exporters put the file
_NAMES = ("model.onnx", "onnx/model.onnx")
#: where others lie, such as model_quantized.onnx
_PATTERNS = ("*.onnx", "onnx/*.onnx")
_MAX_NAMED = 12


def own_file(folder: Path, name: str | None = None) -> Path | None:
    """The ONNX file of a checkpoint: the one named (`model.file`), else model.onnx, else the only one there is.

    Raises InvalidValueError for a name that is none of its files, and where several could be meant.
    """
    files = [file for pattern in _PATTERNS for file in sorted(folder.glob(pattern))]
    found = [file.relative_to(folder).as_posix() for file in files]
    if name is not None:
        if name not in found:
            raise InvalidValueError(key="model.file", value=repr(name), reason=_there(found))
        return folder / name
    usual = next((usual for usual in _NAMES if usual in found), None)
    if usual is None and len(found) > 1:
        raise InvalidValueError(key="model.file", value="null", reason=f"{_there(found)}; name one of them")
    return folder / (usual or found[0]) if found else None


def data_files(file: Path) -> list[Path]:
    """The file and the weights that are kept beside it."""
    beside = [file.with_name(file.name + end) for end in (".data", "_data")]
    return [file, *(path for path in beside if path.is_file())]


def _there(found: list[str]) -> str:
    if not found:
        return "the model's folder holds no ONNX file"
    more = f" and {len(found) - _MAX_NAMED} more" if len(found) > _MAX_NAMED else ""
    return f"the model's folder holds {', '.join(found[:_MAX_NAMED])}{more}"
